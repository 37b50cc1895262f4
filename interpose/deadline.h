// Until when a call of the program waits, however often it is begun anew in between.
#pragma once

#include <time.h>

#include <algorithm>

#include "base/clock.h"

namespace preforkd {

class Deadline {
 public:
  // As of poll(2): below 0, for ever.
  static Deadline in_milliseconds(int time) {
    return time < 0 ? Deadline(kNever) : after(static_cast<Nanoseconds>(time) * kMillisecond);
  }
  // As of ppoll(2): null, for ever.
  static Deadline in(const timespec* time) {
    if (!time) return Deadline(kNever);
    return after(static_cast<Nanoseconds>(time->tv_sec) * kSecond +
                 static_cast<Nanoseconds>(time->tv_nsec));
  }
  bool has_passed() const { return at_ != kNever && monotonic_now() >= at_; }
  // At most `most`; kNever: for ever.
  Nanoseconds left(Nanoseconds most = kNever) const {
    if (at_ == kNever) return most;
    const Nanoseconds now = monotonic_now();
    return std::min(most, at_ > now ? at_ - now : 0);
  }

 private:
  explicit Deadline(Nanoseconds at) : at_(at) {}
  static Deadline after(Nanoseconds time) {
    const Nanoseconds now = monotonic_now();
    return Deadline(time < kNever - now ? now + time : kNever);
  }
  Nanoseconds at_;
};

}  // namespace preforkd
