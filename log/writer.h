// Writes the log, in a thread of its own: it may have to wait for whoever reads it, and nobody waits for it. The other
// thread, which reads, hands over what there is. Where descriptor 2 is the journal's stream, lines go to its socket with
// fields (systemd/journal.h).
//
// How a line looks: shown.h. The journal has what a program wrote as it came, without its "<3>", and the pool in a field.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "log/queues.h"
#include "systemd/journal.h"

namespace preforkd {

class Writer {
 public:
  Writer();

  void put(const std::string& source, Entry entry);
  void count_lost(const std::string& source, uint64_t lines);
  // Until all is written; or nothing could be for 5 s, and then the thread, which stands in a write, is left to go
  // with the process.
  void finish();

 private:
  void run();
  void write(const std::string& text);
  bool send_to_journal(const Entry& entry) const;

  const Journal journal_;
  const bool has_stream_;  // descriptor 2 is the journal's stream
  std::mutex mutex_;
  std::condition_variable something_, done_;
  Queues queues_;                          // with mutex_
  uint64_t written_ = 0;                   // likewise
  bool is_idle_ = true, is_over_ = false;  // likewise
  // Of the thread that writes: how many lines could not be, since the last one that was; and why not.
  uint64_t unwritten_lines_ = 0;
  std::string why_unwritten_;
  bool is_torn_ = false;  // the last line that was written is not whole
  std::thread thread_;
};

}  // namespace preforkd
