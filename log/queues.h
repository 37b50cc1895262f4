// What waits to be written: a bounded queue for each source, taken from in turn, a line each, so that the flood of one
// does not keep the others' lines. What did not fit is counted, and said where it is missing. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "base/log.h"

namespace preforkd {

// A pool's name; or one of these, which are none.
inline constexpr char kOfDaemon[] = "", kOfControl[] = "(control)";

struct Entry {
  LogLevel level = LogLevel::kInfo;
  std::string pool;
  pid_t worker = 0;
  std::string text;
  Event event = Event::kNone;
  bool is_raw = false;  // as a program, or whoever else had the pipe, has written it

  LogLine line() const { return {level, pool, worker, text, event}; }
};

class Queues {
 public:
  // Bytes that wait, of each source; in memory it is a little more.
  static constexpr size_t kMostOfSource = 256 * 1024;

  void push(const std::string& source, Entry entry);
  // So many of its lines were lost on their way here.
  void count_lost(const std::string& source, uint64_t lines);
  // The next one to write, or that lines are missing here; nothing: all is written.
  std::optional<Entry> pop();
  bool is_empty() const { return turns_.empty(); }

 private:
  struct Queue {
    std::deque<Entry> entries;
    size_t bytes = 0;
    uint64_t lost = 0;      // since the last entry
    bool has_turn = false;  // is in turns_
    bool is_full =
        false;  // until half of it is written: else each second line would be one that says what is missing
  };
  void expect_turn(const std::string& source, Queue& queue);
  static Entry missing(const std::string& source, uint64_t lines);

  std::map<std::string, Queue> queues_;  // those that have something to say
  std::deque<std::string> turns_;
};

}  // namespace preforkd
