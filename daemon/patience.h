// A timer of the daemon for how long others may take: what it stood still itself (base/standstill.h) is given to them.
#pragma once

#include <functional>
#include <utility>

#include "base/loop.h"
#include "base/standstill.h"

namespace preforkd {

// Set anew, or dropped, it does not run. Its owner stays where it is.
class PatientTimer {
 public:
  explicit PatientTimer(EventLoop& loop) : loop_(loop) {}
  PatientTimer(const PatientTimer&) = delete;
  PatientTimer& operator=(const PatientTimer&) = delete;

  void set_at(Nanoseconds until, std::function<void()> on_time) {
    until_ = until;
    on_time_ = std::move(on_time);
    wait();
  }
  void set_after(Nanoseconds delay, std::function<void()> on_time) {
    set_at(monotonic_now() + delay, std::move(on_time));
  }
  void drop() { timer_ = {}; }
  bool is_set() const { return timer_.is_set(); }
  // As it was set last, and later by each standstill since; kNever: it never was.
  Nanoseconds until() const { return until_; }

 private:
  void wait() {
    const Nanoseconds began = monotonic_now(), look_at = next_look(until_, began);
    timer_ = loop_.at(look_at, [this, began, look_at] {
      const Nanoseconds now = monotonic_now();
      until_ += stood_still(began, look_at, now);
      if (now < until_) return wait();
      const auto on_time = std::move(on_time_);  // which may set it anew, or end it
      on_time();
    });
  }

  EventLoop& loop_;
  EventLoop::Timer timer_;
  Nanoseconds until_ = kNever;
  std::function<void()> on_time_;
};

}  // namespace preforkd
