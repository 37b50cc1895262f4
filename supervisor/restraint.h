// What keeps a pool from growing though it should: workers that die before they can serve, or are lost faster than others may
// be forked (supervisor/breaker.h), and a system that has no process for it. Between what decide() wants and what is done.
// No system calls: what it goes by, and what it leaves in Restraint, are values.
#pragma once

#include <string>

#include "supervisor/breaker.h"
#include "supervisor/scaler.h"

namespace preforkd {

struct Restraint {
  static constexpr Backoff kForkAgain = {100 * kMillisecond, 5 * kSecond};
  // For so long after its last pause a pool is said to lose workers too fast.
  static constexpr Nanoseconds kCalm = 10 * kSecond;

  Breaker breaker;
  uint32_t fork_failures = 0;  // in a row
  int fork_error = 0;          // of the last one
  Nanoseconds fork_retry_at = 0;
  Nanoseconds paced_until = 0;

  // No worker is forked before then.
  Nanoseconds may_fork_at() const { return std::max(fork_retry_at, breaker.retry_at); }
  Restraint after_fork(int error, Nanoseconds now) const;
  // Why the pool is smaller than it should be, or "". `last_death`: how the last worker died, or "".
  std::string trouble(const std::string& last_death, Nanoseconds now) const;
};

// In what pool.
struct Restrained {
  uint32_t max = 0;       // workers
  bool on_trial = false;  // it serves nobody yet
  // Of `preload`: whether there is a template that takes an order now, or will take one as soon as it is done.
  enum class Source { kFree, kAtWork, kNone } source = Source::kFree;
};

// What of `verdict` is to be done now: growth not at all, or by one worker, if the last ones did no good, and not without
// somebody to fork from; nobody is let go on trial. What is to be forked is written down in `restraint`. Where something is
// put off, `wake_at` is when to look again.
Verdict restrain(Verdict verdict, Restraint& restraint, const Restrained& pool, Nanoseconds now,
                 uint32_t jitter);

}  // namespace preforkd
