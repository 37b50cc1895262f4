// The clients of one address who come one after the other while the scenario goes on, and one who stays.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace preforkd::sweep {

constexpr double kLongest = 10;  // seconds that a client may wait

struct Loss {
  Nanoseconds served_since;  // kNever: nobody had answered it yet
  Nanoseconds when;
  std::string text;
};

class Crowd {
 public:
  explicit Crowd(const std::string& address);
  ~Crowd() { leave(); }

  void ask_to_leave();
  void leave();  // who is there finishes
  // After leave().
  const std::vector<Loss>& losses() const { return losses_; }
  uint64_t served() const { return served_; }

 private:
  void come_and_go(std::stop_token end);
  void stay(std::stop_token end);
  void lose(const std::string& text, Nanoseconds served_since);

  const std::string address_;
  std::atomic<uint64_t> served_{0};
  std::mutex mutex_;
  std::vector<Loss> losses_;
  std::vector<std::jthread> threads_;
};

}  // namespace preforkd::sweep
