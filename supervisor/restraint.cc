#include "supervisor/restraint.h"

#include <algorithm>
#include <cstring>

namespace preforkd {

Restraint Restraint::after_fork(int error, Nanoseconds now) const {
  Restraint next = *this;
  next.fork_failures = error ? fork_failures + 1 : 0;
  if (!error) return next;
  next.fork_error = error;
  next.fork_retry_at = now + kForkAgain.after(next.fork_failures);
  return next;
}

std::string Restraint::trouble(const std::string& last_death, Nanoseconds now) const {
  if (breaker.tripped())
    return std::to_string(breaker.died) + " workers died in a row, the last one " + last_death;
  if (now < paced_until)
    return "workers are lost faster than others are forked" +
           (last_death.empty() ? "" : ", the last one " + last_death);
  return fork_failures ? std::string("fork: ") + std::strerror(fork_error) : "";
}

Verdict restrain(Verdict verdict, Restraint& restraint, const Restrained& pool, Nanoseconds now,
                 uint32_t jitter) {
  if (pool.on_trial && verdict.action == Action::kShrink) verdict.action = Action::kNone;
  if (verdict.action != Action::kGrow) return verdict;
  if (pool.source != Restrained::Source::kFree) {  // who tells of its end, or of another
    verdict.action = pool.source == Restrained::Source::kNone ? Action::kHold : Action::kNone;
    if (verdict.action == Action::kHold) verdict.reason = Reason::kNoTemplate;
    return verdict;
  }
  Breaker& breaker = restraint.breaker;
  const bool is_paced = breaker.pace(pool.max, now) > 0;
  if (is_paced) restraint.paced_until = now + Restraint::kCalm;
  if (now < restraint.may_fork_at()) {
    verdict.action = Action::kHold;
    verdict.reason = restraint.fork_failures ? Reason::kForkFailed : Reason::kBreaker;
    verdict.wake_at = std::min(verdict.wake_at, restraint.may_fork_at());
  } else if (is_paced || breaker.tripped()) {
    verdict.count = 1;
    verdict.reason = Reason::kBreaker;
    breaker = breaker.after_probe(pool.max, now, jitter);
  }
  return verdict;
}

}  // namespace preforkd
