// supervisor/restraint: what of a verdict is done now, and when again.
#include "supervisor/restraint.h"

#include <cerrno>

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

constexpr uint32_t kMax = 20;
constexpr uint32_t kMiddle = 512;  // of the jitter: exactly the pause
constexpr Nanoseconds kNow = 1000 * kSecond;
constexpr Restrained kServing = {kMax, false}, kOnTrial = {kMax, true};

Verdict wanted(Action action, uint32_t count) {
  Verdict v;
  v.action = action;
  v.reason = action == Action::kGrow ? Reason::kDemand : Reason::kSurplus;
  v.count = count;
  return v;
}

Restraint after_deaths_in_start(uint32_t deaths) {
  Restraint r;
  for (uint32_t i = 0; i < deaths; ++i) {
    const Nanoseconds now = kNow + i * kSecond;
    r.breaker = r.breaker.after_loss({Loss::Kind::kUnable, now, now, 0}, now, kMiddle);
  }
  return r;
}

void what_is_well_is_left_alone() {
  Restraint r;
  const Verdict v = restrain(wanted(Action::kGrow, 7), r, kServing, kNow, kMiddle);
  CU_ASSERT(v.action == Action::kGrow && v.reason == Reason::kDemand && v.count == 7);
  CU_ASSERT(v.wake_at == kNever && r.may_fork_at() == 0);
  CU_ASSERT(restrain(wanted(Action::kShrink, 3), r, kServing, kNow, kMiddle).count == 3);
}

void nobody_is_let_go_on_trial() {
  Restraint r;
  CU_ASSERT(restrain(wanted(Action::kShrink, 3), r, kOnTrial, kNow, kMiddle).action ==
            Action::kNone);
  CU_ASSERT(restrain(wanted(Action::kGrow, 3), r, kOnTrial, kNow, kMiddle).count == 3);
}

void refused_processes_pause() {
  Restraint r;
  const Nanoseconds pauses[] = {100, 200, 400, 800, 1600, 3200, 5000, 5000};  // milliseconds
  Nanoseconds now = kNow;
  for (const Nanoseconds pause : pauses) {
    r = r.after_fork(EAGAIN, now);
    const Nanoseconds until = now + pause * kMillisecond;
    Verdict v = restrain(wanted(Action::kGrow, 7), r, kServing, until - 1, kMiddle);
    CU_ASSERT(v.action == Action::kHold && v.reason == Reason::kForkFailed);
    CU_ASSERT_EQUAL(v.wake_at, until);
    v = restrain(wanted(Action::kGrow, 7), r, kServing, until, kMiddle);
    CU_ASSERT(v.action == Action::kGrow && v.count == 7);  // there is no word on how many
    now = until;
  }
  CU_ASSERT(unit::same_text(r.trouble("", now), "fork: Resource temporarily unavailable"));
  r = r.after_fork(0, now);
  CU_ASSERT(unit::same_text(r.trouble("", now), ""));
  CU_ASSERT(restrain(wanted(Action::kGrow, 7), r, kServing, now, kMiddle).count == 7);
}

// One at a time, and after each a pause.
void a_tripped_breaker_probes() {
  Restraint r = after_deaths_in_start(Breaker::kTripsAt);
  CU_ASSERT_FATAL(r.breaker.tripped());
  const Nanoseconds last = kNow + (Breaker::kTripsAt - 1) * kSecond;
  CU_ASSERT_EQUAL(r.may_fork_at(), last + 100 * kMillisecond);
  Verdict v = restrain(wanted(Action::kGrow, 7), r, kServing, last, kMiddle);
  CU_ASSERT(v.action == Action::kHold && v.reason == Reason::kBreaker);
  CU_ASSERT_EQUAL(v.wake_at, r.may_fork_at());
  const Nanoseconds now = r.may_fork_at();
  v = restrain(wanted(Action::kGrow, 7), r, kServing, now, kMiddle);
  CU_ASSERT(v.action == Action::kGrow && v.reason == Reason::kBreaker && v.count == 1);
  CU_ASSERT_EQUAL(r.may_fork_at(), now + 100 * kMillisecond);
  CU_ASSERT(restrain(wanted(Action::kGrow, 7), r, kServing, now, kMiddle).action == Action::kHold);
  CU_ASSERT(unit::same_text(r.trouble("exited with status 1", now),
                            "5 workers died in a row, the last one exited with status 1"));
}

void below_the_trip_it_is_not_restrained() {
  Restraint r = after_deaths_in_start(Breaker::kTripsAt - 1);
  const Nanoseconds now = kNow + 10 * kSecond;
  CU_ASSERT(restrain(wanted(Action::kGrow, 7), r, kServing, now, kMiddle).count == 7);
}

void losses_beyond_the_credit_are_paced() {
  Restraint r;
  for (uint64_t i = 0; i <= Breaker::credit(kMax); ++i)
    r.breaker = r.breaker.after_loss({Loss::Kind::kUsed, kNow, kNow, 0}, kNow, kMiddle);
  Verdict v = restrain(wanted(Action::kGrow, 7), r, kServing, kNow, kMiddle);
  CU_ASSERT(v.action == Action::kGrow && v.count == 1 && v.reason == Reason::kBreaker);
  CU_ASSERT_EQUAL(r.may_fork_at(), kNow + Breaker::kPerUsed);
  CU_ASSERT(unit::same_text(r.trouble("", kNow), "workers are lost faster than others are forked"));
  CU_ASSERT(r.trouble("", kNow + Restraint::kCalm).empty());
  // When the debt is paid.
  v = restrain(wanted(Action::kGrow, 7), r, kServing, kNow + Breaker::kPerUsed * 2, kMiddle);
  CU_ASSERT(v.count == 7);
}

}  // namespace

void add_restraint_tests() {
  static const unit::Test kTests[] = {
      {"what is well is left alone", what_is_well_is_left_alone},
      {"nobody is let go on trial", nobody_is_let_go_on_trial},
      {"refused processes pause", refused_processes_pause},
      {"a tripped breaker probes", a_tripped_breaker_probes},
      {"below the trip it is not restrained", below_the_trip_it_is_not_restrained},
      {"losses beyond the credit are paced", losses_beyond_the_credit_are_paced},
  };
  unit::add_suite("restraint", kTests);
}
