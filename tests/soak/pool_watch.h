// How many workers a pool has, looked at every few milliseconds from outside: in /proc.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <thread>

namespace preforkd::system_test {

class PoolWatch {
 public:
  // Of the supervisor's children, those that run; `min` is the pool's.
  PoolWatch(pid_t supervisor, int min);
  ~PoolWatch() { stop(); }
  void stop();

  // After stop().
  int most() const { return most_; }
  double longest_below_min() const { return longest_below_; }  // seconds

 private:
  void watch(pid_t supervisor, int min);

  std::atomic<bool> stopping_{false};
  int most_ = 0;
  double longest_below_ = 0;
  std::jthread thread_;
};

}  // namespace preforkd::system_test
