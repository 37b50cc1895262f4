// Time that does not count: the machine was paused, a cgroup frozen, the service stopped by a signal. Nobody tells of it
// afterwards, and the clock has gone on. But who had asked to be woken, and is so much later, has stood still meanwhile, and
// with him what he looks after; or the machine is so busy that he might as well have.
//   It is seen at the end of a wait only, and when it began nobody knows: so the whole wait does not count, with the work
// before it, as it may have come then. And nobody waits for more than a quarter of a deadline that is to know of it (or a
// second). One who waits for no deadline is not woken.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/clock.h"

namespace preforkd {

// How long a wait was, that began and was to last until `due` at the most, if there was a standstill in it; else 0.
inline Nanoseconds stood_still(Nanoseconds began, Nanoseconds due, Nanoseconds now) {
  constexpr Nanoseconds kLate = 250 * kMillisecond;  // more than a processor's queue
  return due != kNever && now > due + kLate ? now - began : 0;
}

// When to look whether it is `until` yet.
inline Nanoseconds next_look(Nanoseconds until, Nanoseconds now) {
  if (until == kNever || until <= now + kSecond) return until;
  return now + std::max(kSecond, (until - now) / 4);
}

// The last ones.
class Standstills {
 public:
  Nanoseconds note(Nanoseconds began, Nanoseconds due, Nanoseconds now) {
    const Nanoseconds length = stood_still(began, due, now);
    if (length > 0) last_[next_++ % last_.size()] = {began, now};
    return length;
  }
  Nanoseconds since(Nanoseconds then) const {
    Nanoseconds sum = 0;
    for (const Standstill& one : last_)
      if (one.until > then) sum += one.until - std::max(one.from, then);
    return sum;
  }

 private:
  struct Standstill {
    Nanoseconds from = 0, until = 0;
  };
  std::array<Standstill, 16> last_{};
  size_t next_ = 0;
};

}  // namespace preforkd
