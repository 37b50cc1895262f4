// A supervisor and the deaths of its workers: what it makes of them, what it tells of them, and how fast others take
// their places.
#include <algorithm>
#include <string>

#include "base/log.h"
#include "supervisor/supervisor.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kLookAgain = 100 * kMillisecond;
constexpr Nanoseconds kCalm = 10 * kSecond;
// Of a death there is a line in the log, of so many at once, and of one more each second; the others are counted.
constexpr Nanoseconds kToldAtOnce = 100, kPerDeathTold = 1 * kSecond;

constexpr int kOthersAtOnce = 1000;  // children that are no workers

uint32_t jitter() { return static_cast<uint32_t>(monotonic_now() >> 7); }

}  // namespace

bool Supervisor::reap_workers(Nanoseconds now) {
  bool any = false, may_have_been_woken = false, failed = false;
  std::string how;
  int others = kOthersAtOnce;
  while (auto death = workforce_.reap(now, others)) {
    any = true;
    if (death->only_stopped) {  // it, too, may sit on a wake-up
      if (!death->text.empty())
        log({LogLevel::kWarning, {}, death->pid, death->text, Event::kWorkerStopped});
    } else {
      tell_death(*death, now);
      if (death->abnormal) last_death_ = death->text;
      breaker_ = breaker_.after_loss(death->loss, now, jitter());
      if (death->proves && death->loss.began_at >= breaker_.stepped_at)
        breaker_ = breaker_.after_proof();
    }
    const bool ended =
        death->only_stopped || death->abnormal || death->ending == shm::Ending::kTimedOut;
    may_have_been_woken |= ended || death->unannounced;
    // While others wait on the same sockets they look again; one that serves nobody yet is on trial.
    if (course_ == Course::kServing ? !death->abnormal || death->served : !ended) continue;
    failed = true;
    how = death->text;
  }
  if (others == 0) due_ = now;
  if (failed) say(ReportType::kWorkerFailed, 0, how);
  tell_of_the_others(now);
  // The dead one may have taken an exclusive wake-up with it: let others look at what is waiting. Not once: who
  // is nudged may have taken a connection just now, and who is about to go idle is not nudged.
  if (may_have_been_woken || now >= look_again_at_) {
    const uint32_t waiting = queued();
    if (waiting) workforce_.nudge_idle(waiting);
    look_again_at_ = waiting ? now + kLookAgain : kNever;
  }
  due_ = std::min(due_, look_again_at_);
  return any;
}

void Supervisor::tell_death(const Workforce::Death& death, Nanoseconds now) {
  if (!death.abnormal) return log({LogLevel::kDebug, {}, death.pid, death.text});
  if (told_of_deaths_.exceeds(kToldAtOnce * kPerDeathTold, now)) {
    ++untold_deaths_;
    return;
  }
  log({LogLevel::kWarning, {}, death.pid, death.text, Event::kWorkerDied});
  told_of_deaths_ = told_of_deaths_.after(kPerDeathTold, now);
}

void Supervisor::tell_of_the_others(Nanoseconds now) {
  if (untold_deaths_ == 0) return;
  const Nanoseconds credit = kToldAtOnce * kPerDeathTold;
  if (told_of_deaths_.exceeds(credit, now)) {
    due_ = std::min(due_, told_of_deaths_.even_at - credit);
    return;
  }
  log_warning(std::to_string(untold_deaths_) + " more workers died, the last one " + last_death_,
              Event::kWorkerDied);
  told_of_deaths_ = told_of_deaths_.after(kPerDeathTold, now);
  untold_deaths_ = 0;
}

// Below the trip it is enough that one came through its start, or there would be a row of rounds in which some did.
// (Of one that was seen only now, and tripped, nobody knows whether that was before.)
void Supervisor::look_for_proof(Nanoseconds now) {
  if (breaker_.steps == 0) return;
  const bool for_a_while = breaker_.tripped() || plan_.program;
  const Nanoseconds since =
      workforce_.able_since(breaker_.stepped_at + (breaker_.tripped() ? 1 : 0));
  if (since == kNever) return;
  const Nanoseconds proven_at = since + (for_a_while ? Breaker::kProof : 0);
  if (now >= proven_at)
    breaker_ = breaker_.after_proof();
  else
    due_ = std::min(due_, proven_at);
}

Nanoseconds Supervisor::may_fork_at() const { return std::max(fork_retry_at_, breaker_.retry_at); }

// Not now, or one only, if the last ones did no good.
void Supervisor::restrain(Verdict& verdict, Nanoseconds now) {
  const bool paced = breaker_.pace(limits_.max, now) > 0;
  if (paced) paced_until_ = now + kCalm;
  if (now < may_fork_at()) {
    verdict.action = Action::kHold;
    verdict.reason = fork_failures_ ? Reason::kForkFailed : Reason::kBreaker;
    due_ = std::min(due_, may_fork_at());
  } else if (paced || breaker_.tripped()) {
    verdict.count = 1;
    verdict.reason = Reason::kBreaker;
    breaker_ = breaker_.after_probe(limits_.max, now, jitter());
  }
}

}  // namespace preforkd
