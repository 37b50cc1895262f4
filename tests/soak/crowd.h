// Clients that count what becomes of each connection. They speak to a pool of `unruly`, and ask it for the
// pid of who serves them, so that a lost connection is known to be a certain worker's.
//
// Lost is what a client sees: refused, reset, cut short, answered wrongly, or not within kPatience.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace preforkd::system_test {

enum class Loss { kRefused, kReset, kCutShort, kWrong, kUnanswered };
const char* name_of(Loss loss);

struct Lost {
  Loss how;
  pid_t server = 0;  // 0: it had not answered yet
  bool was_long = false;
  uint16_t own_port = 0;
};

class Crowd {
 public:
  struct Shape {
    int threads = 8;        // that make short connections, one after the other
    double per_second = 0;  // short ones, of all threads together; 0: as many as there can be
    int long_ones = 0;      // beside them: talk for one to four seconds, and come again
  };
  // "127.0.0.1:PORT". They come from the addresses of 127.1/16, so that ports do not run out.
  Crowd(const std::string& address, const Shape& shape);
  ~Crowd();

  uint64_t served() const { return short_served_ + long_served_; }
  uint64_t short_served() const { return short_served_; }
  uint64_t long_served() const { return long_served_; }
  std::vector<Lost> lost() const;
  double seconds() const;  // from its beginning until stop()
  // Each finishes the connection that it has. What kept a client itself from going on is thrown as Failure.
  void stop();

 private:
  void make_short_ones(uint32_t number, double per_second);
  void make_long_ones(uint32_t number);
  void note(const Lost& lost);
  template <class Work>
  void add_thread(Work work);

  const uint16_t port_;
  const int64_t began_;
  int64_t ended_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> short_served_{0}, long_served_{0};
  mutable std::mutex mutex_;
  std::vector<Lost> lost_;
  std::string own_trouble_;
  std::vector<std::jthread> threads_;
};

}  // namespace preforkd::system_test
