// The counters of a pool, read again and again from whatever control answers, while control and all else is killed:
// none may ever be less than it was.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/harness.h"

namespace preforkd::system_test {

class FiguresWatch {
 public:
  // `server` is borrowed; what it is asked for is asked by a thread.
  explicit FiguresWatch(Server& server);
  ~FiguresWatch() { stop(); }
  void stop();

  // After stop().
  const std::vector<std::string>& falls() const { return falls_; }  // "served: 812, then 640"
  uint64_t answers() const { return answers_; }
  int controls() const { return controls_; }  // different processes that gave one of them

 private:
  void watch(Server& server);

  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> answers_{0};
  int controls_ = 0;
  std::vector<std::string> falls_;
  std::jthread thread_;
};

}  // namespace preforkd::system_test
