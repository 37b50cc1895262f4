// The breaker: when workers die one after the other with nothing served between, forking more of them at
// full speed helps nobody. Five abnormal deaths in a row trip it; from then on one worker at a time, after
// a pause that doubles with each further death (with jitter, so that pools do not beat in step). One
// connection served resets it.
//
// What was served is read from memory that workers can write. So there is a second bound, which rests on the
// deaths alone: 250 a second are made good, beyond as many at once as the pool has workers (somebody may
// kill them all) and some more. Pure: values in, values out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace preforkd {

struct Breaker {
  static constexpr uint32_t kTripsAt = 5;
  static constexpr Nanoseconds kFirstPause = 100 * kMillisecond;
  static constexpr Nanoseconds kLongestPause = 30 * kSecond;
  static constexpr Nanoseconds kPerDeath = 4 * kMillisecond;
  static constexpr uint32_t kAtOnce = 512;  // besides the pool's `max`

  uint32_t deaths = 0;           // abnormal, in a row
  uint64_t served_before = 0;    // connections the pool had served at the last of them
  Nanoseconds retry_at = 0;      // while tripped: not before then
  Nanoseconds made_good_at = 0;  // when all deaths are, at the rate of one each kPerDeath

  bool tripped() const { return deaths >= kTripsAt; }
  Nanoseconds pause() const {
    uint32_t doublings = std::min(deaths - kTripsAt, 16u);
    return std::min(kFirstPause << doublings, kLongestPause);
  }

  // In a pool of at most `max` workers no other is forked before then.
  Nanoseconds fork_at(uint32_t max) const {
    const Nanoseconds at_once = (kAtOnce + Nanoseconds{max}) * kPerDeath;
    return std::max(retry_at, made_good_at > at_once ? made_good_at - at_once : 0);
  }

  // `jitter` is any random number: the pause is spread over ±25 %.
  Breaker after_death(uint64_t served, Nanoseconds now, uint32_t jitter) const {
    Breaker next = after_progress(served);
    ++next.deaths;
    next.made_good_at = std::max(made_good_at, now) + kPerDeath;
    next.served_before = served;
    if (next.tripped()) next.retry_at = now + spread(next.pause(), jitter);
    return next;
  }
  // A worker was forked while tripped: the next one only after the same pause.
  Breaker after_probe(Nanoseconds now, uint32_t jitter) const {
    Breaker next = *this;
    next.retry_at = now + spread(pause(), jitter);
    return next;
  }
  // Called with what the pool has served by now.
  Breaker after_progress(uint64_t served) const {
    if (deaths == 0 || served <= served_before) return *this;
    Breaker reset;
    reset.made_good_at = made_good_at;
    return reset;
  }

 private:
  static Nanoseconds spread(Nanoseconds pause, uint32_t jitter) {
    return pause * 3 / 4 + pause / 2 * (jitter % 1024) / 1024;
  }
};

}  // namespace preforkd
