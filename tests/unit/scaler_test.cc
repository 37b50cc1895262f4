// supervisor/scaler: decide() against cases worked out by hand, pools that live through a day's load in
// simulated time, and what must hold for any view whatsoever.
#include "supervisor/scaler.h"

#include <algorithm>
#include <random>

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

constexpr Nanoseconds kNow = 1000 * kSecond;
constexpr Limits kLimits = {4, 16, 2, 3, 10 * kSecond};  // a step is 1.25 s, a window 8 steps

// A window in which each of `steps` steps had this peak, the last one over just now.
ScalerMemory after_steps(uint32_t steps, uint32_t peak, uint32_t patience = 1) {
  ScalerMemory m;
  m.peaks.fill(peak);
  m.steps = steps;
  m.step_began = kNow - shrink_step(kLimits);
  m.patience = patience;
  m.patience_since = kNow;
  return m;
}

// --- growth --------------------------------------------------------------------------------------

struct Growth {
  const char* what;
  View view;  // starting, idle, busy, retiring, recycling, queued, peak_busy
  Action action;
  Reason reason;
  uint32_t count;
};

constexpr Growth kGrowth[] = {
    {"an empty pool: min", {}, Action::kGrow, Reason::kBelowMin, 4},
    {"starting ones count towards min", {3, 0, 0}, Action::kGrow, Reason::kBelowMin, 1},
    {"at min, all idle", {0, 4, 0}, Action::kNone, Reason::kNone, 0},
    {"as many idle as min_spare", {0, 2, 2}, Action::kNone, Reason::kNone, 0},
    {"one spare too few", {0, 1, 3}, Action::kGrow, Reason::kDemand, 1},
    {"no spare", {0, 0, 4}, Action::kGrow, Reason::kDemand, 2},
    {"starting ones are spare ones", {1, 0, 4}, Action::kGrow, Reason::kDemand, 1},
    {"enough are starting", {2, 0, 4}, Action::kNone, Reason::kNone, 0},
    {"queued ones are missing too", {0, 0, 4, 0, 0, 5}, Action::kGrow, Reason::kDemand, 7},
    {"queued, but idle ones will take them", {0, 4, 4, 0, 0, 2}, Action::kNone, Reason::kNone, 0},
    {"demand above what min asks for", {0, 0, 1, 0, 0, 9}, Action::kGrow, Reason::kDemand, 11},
    {"min above what demand asks for", {0, 1, 0}, Action::kGrow, Reason::kBelowMin, 3},
    {"room below max", {0, 0, 13, 0, 0, 50}, Action::kGrow, Reason::kDemand, 3},
    {"no room", {0, 0, 16, 0, 0, 50}, Action::kHold, Reason::kAtMax, 0},
    {"retiring ones take room", {0, 0, 13, 2, 0, 50}, Action::kGrow, Reason::kDemand, 1},
    {"retiring ones take all room", {0, 0, 13, 3, 0, 50}, Action::kHold, Reason::kAtMax, 0},
    {"recycling ones take room", {0, 0, 13, 1, 1, 50}, Action::kGrow, Reason::kDemand, 1},
    {"retiring ones are not spare", {0, 0, 4, 3}, Action::kGrow, Reason::kDemand, 2},
    {"a replacement, for min", {0, 3, 0, 0, 1}, Action::kGrow, Reason::kRecycle, 1},
    {"replacements, for spare ones", {0, 0, 6, 0, 2}, Action::kGrow, Reason::kRecycle, 2},
    {"more than replacements", {0, 0, 6, 0, 1}, Action::kGrow, Reason::kDemand, 2},
    {"the replacement is starting", {1, 3, 0, 0, 1}, Action::kNone, Reason::kNone, 0},
    {"nobody misses the one recycled", {0, 5, 0, 0, 1}, Action::kNone, Reason::kNone, 0},
    {"no room for a replacement", {0, 0, 15, 0, 1}, Action::kHold, Reason::kAtMax, 0},
    {"a flood in the queue", {0, 0, 1, 0, 0, ~0u}, Action::kGrow, Reason::kDemand, 15},
};

void grows_by_what_is_missing() {
  ScalerMemory fresh;
  fresh.step_began = kNow;
  for (const Growth& row : kGrowth) {
    Verdict v = decide(row.view, kLimits, kNow, fresh);
    bool right = v.action == row.action && v.reason == row.reason && v.count == row.count;
    if (!right)
      std::printf("\n  %s: %s %s %u\n", row.what, action_name(v.action), reason_name(v.reason),
                  v.count);
    CU_ASSERT(right);
    CU_ASSERT_EQUAL(v.take_peak, row.action == Action::kGrow);
  }
}

void on_demand_and_static() {
  const Limits on_demand = {0, 16, 0, 0, 10 * kSecond}, fixed = {8, 8, 2, 3, 10 * kSecond};
  CU_ASSERT(decide({}, on_demand, kNow, {}).action == Action::kNone);
  CU_ASSERT_EQUAL(decide({}, on_demand, kNow, {}).wake_at, kNever);
  CU_ASSERT_EQUAL(decide({0, 0, 0, 0, 0, 3}, on_demand, kNow, {}).count, 3);
  CU_ASSERT_EQUAL(decide({0, 1, 0, 0, 0, 3}, on_demand, kNow, {}).count, 2);
  CU_ASSERT(decide({0, 8, 0}, fixed, kNow, {}).action == Action::kNone);
  CU_ASSERT_EQUAL(decide({0, 8, 0}, fixed, kNow, {}).wake_at, kNever);
  CU_ASSERT_EQUAL(decide({0, 0, 7}, fixed, kNow, {}).count, 1);
  CU_ASSERT(decide({0, 0, 8, 0, 0, 9}, fixed, kNow, {}).reason == Reason::kAtMax);
  CU_ASSERT_EQUAL(decide({0, 0, 8, 0, 0, 9}, fixed, kNow, {}).wake_at, kNever);
}

void growth_begins_the_window_anew() {
  ScalerMemory m = after_steps(7, 0);
  Verdict v = decide({0, 1, 9, 0, 0, 0, 9}, kLimits, kNow, m);
  CU_ASSERT(v.action == Action::kGrow && v.take_peak);
  CU_ASSERT_EQUAL(v.memory.steps, 0);
  CU_ASSERT_EQUAL(v.memory.step_began, kNow);
  CU_ASSERT_EQUAL(v.wake_at, kNow + shrink_step(kLimits));
}

// --- shrinking -----------------------------------------------------------------------------------

struct Shrinking {
  const char* what;
  View view;
  uint32_t steps, peak;  // of the window before the step that ends now
  uint32_t patience;
  uint32_t count;  // 0: nothing is let go
};

constexpr Shrinking kShrinking[] = {
    {"the window is not over", {0, 16, 0}, 6, 0, 1, 0},
    {"peak 0: min; half of 12", {0, 16, 0}, 7, 0, 1, 6},
    {"half of 11, rounded up", {0, 15, 0}, 7, 0, 1, 6},
    {"half of 1, rounded up", {0, 5, 0}, 7, 0, 1, 1},
    {"at min", {0, 4, 0}, 7, 0, 1, 0},
    {"peak and max_spare: 6 + 3", {0, 16, 0}, 7, 6, 1, 4},
    {"the step that ends counts: 8 + 3", {0, 16, 0, 0, 0, 0, 8}, 7, 6, 1, 3},
    {"min above peak and max_spare", {0, 7, 0, 0, 0, 0, 1}, 7, 0, 1, 2},
    {"nothing above what is kept", {0, 9, 0}, 7, 6, 1, 0},
    {"no more than are idle", {10, 3, 0}, 7, 0, 1, 3},
    {"no more than those who wait leave", {0, 14, 0, 0, 0, 9}, 7, 0, 1, 3},
    {"twice the patience: 15 steps are not enough", {0, 16, 0}, 14, 0, 2, 0},
    {"twice the patience: 16 are", {0, 16, 0}, 15, 0, 2, 6},
    {"eight times the patience: 64 steps", {0, 16, 0}, 62, 0, 8, 0},
    {"eight times the patience: all of them", {0, 16, 0}, 63, 0, 8, 6},
    {"long after the window: every step", {0, 10, 0}, 1000, 0, 1, 3},
};

void shrinks_by_proof() {
  for (const Shrinking& row : kShrinking) {
    Verdict v = decide(row.view, kLimits, kNow, after_steps(row.steps, row.peak, row.patience));
    bool right = v.action == (row.count ? Action::kShrink : Action::kNone) &&
                 v.reason == (row.count ? Reason::kSurplus : Reason::kNone) && v.count == row.count;
    if (!right) std::printf("\n  %s: %s %u\n", row.what, action_name(v.action), v.count);
    CU_ASSERT(right);
    CU_ASSERT_EQUAL(v.memory.shrank_at, row.count ? kNow : 0);
  }
}

void only_at_the_end_of_a_step() {
  ScalerMemory m = after_steps(20, 0);
  m.step_began += 1;
  Verdict v = decide({0, 16, 0}, kLimits, kNow, m);
  CU_ASSERT(v.action == Action::kNone && !v.take_peak);
  CU_ASSERT_EQUAL(v.wake_at, kNow + 1);
  v = decide({0, 16, 0}, kLimits, kNow + 1, v.memory);
  CU_ASSERT(v.action == Action::kShrink && v.take_peak);
  CU_ASSERT_EQUAL(v.wake_at, kNow + 1 + shrink_step(kLimits));
}

void an_old_peak_slides_out() {
  ScalerMemory m = after_steps(8, 0);
  m.peaks[7] = 12;  // the step before this one
  for (int step = 0; step < 7; ++step) {
    m.step_began = kNow - shrink_step(kLimits);
    Verdict v = decide({0, 15, 0}, kLimits, kNow, m);
    CU_ASSERT(v.action == Action::kNone && v.peak == 12);
    m = v.memory;
  }
  m.step_began = kNow - shrink_step(kLimits);
  CU_ASSERT_EQUAL(decide({0, 15, 0}, kLimits, kNow, m).count, 6);
}

void steps_and_windows() {
  static const struct {
    Nanoseconds shrink_after, step;
    uint32_t patience, steps;
  } kRows[] = {
      {10 * kSecond, 1250 * kMillisecond, 1, 8},
      {10 * kSecond, 1250 * kMillisecond, 8, 64},
      {2 * kSecond, 250 * kMillisecond, 1, 8},
      {kSecond, 250 * kMillisecond, 1, 4},
      {kSecond, 250 * kMillisecond, 8, 32},
      {100 * kMillisecond, 250 * kMillisecond, 1, 1},
      {100 * kMillisecond, 250 * kMillisecond, 4, 2},
      {0, 250 * kMillisecond, 1, 1},
      {3 * kSecond + 3, 375 * kMillisecond, 8, 64},
  };
  for (const auto& row : kRows) {
    Limits limits = kLimits;
    limits.shrink_after = row.shrink_after;
    CU_ASSERT_EQUAL(shrink_step(limits), row.step);
    CU_ASSERT_EQUAL(window_steps(limits, row.patience), row.steps);
  }
}

void no_timer_at_min() {
  for (uint32_t busy = 0; busy <= 2; ++busy) {
    Verdict v = decide({0, 4 - busy, busy}, kLimits, kNow, after_steps(3, 0));
    CU_ASSERT(v.action == Action::kNone);
    CU_ASSERT_EQUAL(v.wake_at, kNever);
    CU_ASSERT_EQUAL(v.memory.steps, 0);
  }
}

// The spare ones that growth would make again at once are no surplus: min may be below min_spare.
void keeps_what_it_would_grow_again() {
  for (uint32_t min : {0u, 1u}) {
    Limits limits = kLimits;
    limits.min = min;
    Verdict v = decide({0, 2, 0}, limits, kNow, after_steps(7, 0));
    CU_ASSERT(v.action == Action::kNone);
    CU_ASSERT_EQUAL(v.wake_at, kNever);
    CU_ASSERT_EQUAL(decide({0, 5, 0}, limits, kNow, after_steps(7, 0)).count, 2);
  }
}

void limits_lowered() {
  const Limits lower = {2, 5, 2, 3, 10 * kSecond};
  Verdict v = decide({1, 2, 9}, lower, kNow, after_steps(20, 0));
  CU_ASSERT(v.action == Action::kShrink && v.reason == Reason::kAboveMax);
  CU_ASSERT_EQUAL(v.count, 7);
  CU_ASSERT_EQUAL(v.wake_at, kNow + shrink_step(lower));
  // Told to leave, they are retiring: no more are told, and none is made for those who wait.
  v = decide({0, 0, 5, 7, 0, 9}, lower, kNow, v.memory);
  CU_ASSERT(v.action == Action::kHold && v.count == 0);
}

// --- patience ------------------------------------------------------------------------------------

uint32_t patience_after_growth(uint32_t patience, Nanoseconds since_shrink) {
  ScalerMemory m = after_steps(0, 0, patience);
  m.shrank_at = kNow - since_shrink;
  return decide({0, 0, 5, 0, 0, 0, 5}, kLimits, kNow, m).memory.patience;
}

void patience_doubles_and_halves() {
  CU_ASSERT_EQUAL(patience_after_growth(1, 19 * kSecond), 2);
  CU_ASSERT_EQUAL(patience_after_growth(2, 1 * kSecond), 4);
  CU_ASSERT_EQUAL(patience_after_growth(8, 1 * kSecond), 8);
  CU_ASSERT_EQUAL(patience_after_growth(1, 20 * kSecond), 1);

  // Once a shrink, however often the pool grows after it.
  ScalerMemory m = after_steps(0, 0);
  m.shrank_at = kNow - kSecond;
  m = decide({0, 0, 5}, kLimits, kNow, m).memory;
  m = decide({0, 0, 7}, kLimits, kNow + kSecond, m).memory;
  CU_ASSERT_EQUAL(m.patience, 2);

  // Not by growth up to min, which no shrinking caused, nor by replacements.
  for (View no_load : {View{0, 3, 0}, View{0, 3, 0, 0, 1}}) {
    ScalerMemory shrunk = after_steps(0, 0);
    shrunk.shrank_at = kNow - kSecond;
    CU_ASSERT_EQUAL(decide(no_load, kLimits, kNow, shrunk).memory.patience, 1);
  }

  static const struct {
    Nanoseconds quiet;
    uint32_t patience;
  } kRows[] = {{19 * kSecond, 8}, {20 * kSecond, 4}, {39 * kSecond, 4},
               {40 * kSecond, 2}, {60 * kSecond, 1}, {6000 * kSecond, 1}};
  for (const auto& row : kRows) {
    ScalerMemory impatient = after_steps(0, 0, 8);
    impatient.patience_since = kNow - row.quiet;
    CU_ASSERT_EQUAL(decide({0, 4, 0}, kLimits, kNow, impatient).memory.patience, row.patience);
  }
}

// --- pools in simulated time ---------------------------------------------------------------------

// A pool whose workers start and leave at once, obeying decide() as the supervisor does.
class SimulatedPool {
 public:
  SimulatedPool(const Limits& limits, Nanoseconds now) : limits_(limits), now_(now) {
    memory_.step_began = now;
    look();
  }

  void load(uint32_t connections) {
    connections_ = connections;
    look();
  }
  void run_until(Nanoseconds until) {
    while (wake_at_ <= until) {
      now_ = wake_at_;
      look();
    }
    now_ = until;
  }

  uint32_t workers() const { return workers_; }
  uint32_t forked() const { return forked_; }
  uint32_t shrinks() const { return shrinks_; }
  Nanoseconds wake_at() const { return wake_at_; }
  Nanoseconds at_min_since() const { return at_min_since_; }

 private:
  View view() {
    View v;
    v.busy = std::min(connections_, workers_);
    v.idle = workers_ - v.busy;
    v.queued = connections_ - v.busy;
    v.peak_busy = peak_ = std::max(peak_, v.busy);
    return v;
  }

  void look() {
    for (int turns = 0;; ++turns) {
      Verdict v = decide(view(), limits_, now_, memory_);
      memory_ = v.memory;
      wake_at_ = v.wake_at;
      if (v.take_peak) peak_ = std::min(connections_, workers_);
      if (v.action == Action::kGrow) {
        workers_ += v.count;
        forked_ += v.count;
      } else if (v.action == Action::kShrink) {
        workers_ -= v.count;
        ++shrinks_;
        if (workers_ == limits_.min) at_min_since_ = now_;
      } else {
        return;
      }
      CU_ASSERT_FATAL(turns < 10);
    }
  }

  const Limits limits_;
  ScalerMemory memory_;
  Nanoseconds now_, wake_at_ = kNever, at_min_since_ = 0;
  uint32_t workers_ = 0, connections_ = 0, peak_ = 0, forked_ = 0, shrinks_ = 0;
};

void burst_of_200() {
  SimulatedPool pool({5, 256, 2, 8, 2 * kSecond}, kNow);
  CU_ASSERT_EQUAL(pool.workers(), 5);
  CU_ASSERT_EQUAL(pool.wake_at(), kNever);
  pool.load(200);
  CU_ASSERT_EQUAL(pool.workers(), 202);  // at once: each client, and min_spare
  pool.run_until(kNow + kSecond);
  pool.load(0);
  pool.run_until(kNow + 16 * kSecond);
  CU_ASSERT_EQUAL(pool.workers(), 5);
  CU_ASSERT(pool.at_min_since() <= kNow + 16 * kSecond);
  CU_ASSERT_EQUAL(pool.forked(), 202);
  pool.run_until(kNow + 60 * kSecond);
  CU_ASSERT_EQUAL(pool.wake_at(), kNever);
}

void square_wave() {
  SimulatedPool pool({4, 256, 2, 8, 10 * kSecond}, kNow);
  uint32_t forked_in_first_period = 0;
  for (int period = 0; period < 10; ++period) {
    const Nanoseconds begin = kNow + static_cast<Nanoseconds>(period) * 4 * kSecond;
    pool.load(64);
    pool.run_until(begin + 2 * kSecond);
    pool.load(0);
    pool.run_until(begin + 4 * kSecond);
    if (period == 0) forked_in_first_period = pool.forked();
  }
  CU_ASSERT_EQUAL(forked_in_first_period, 66);
  CU_ASSERT_EQUAL(pool.forked(), forked_in_first_period);
  CU_ASSERT_EQUAL(pool.shrinks(), 0);
}

// A wave a little too slow for the window: after each mistake, patience covers the next pause.
void patience_spares_forks() {
  SimulatedPool pool({4, 256, 2, 8, 10 * kSecond}, kNow);
  uint32_t periods_with_forks = 0;
  for (int period = 0; period < 20; ++period) {
    const Nanoseconds begin = kNow + static_cast<Nanoseconds>(period) * 16 * kSecond;
    const uint32_t forked_before = pool.forked();
    pool.load(64);
    pool.run_until(begin + 2 * kSecond);
    pool.load(0);
    pool.run_until(begin + 16 * kSecond);
    periods_with_forks += pool.forked() > forked_before;
  }
  CU_ASSERT(periods_with_forks > 1 && periods_with_forks <= 11);
}

// --- any view ------------------------------------------------------------------------------------

class Dice {
 public:
  explicit Dice(uint32_t seed) : engine_(seed) {}
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(engine_() % bound); }
  Limits limits() {
    for (;;) {
      Limits l = {below(40), 1 + below(60), below(20), below(30), below(20) * 500 * kMillisecond};
      if (contradictions(l).empty()) return l;
    }
  }
  View view() {
    View v = {below(4) * below(10), below(40), below(40), below(3) * below(5), below(3) * below(3),
              below(4) * below(50), 0};
    v.peak_busy = below(3) ? v.busy + below(10) : below(50);
    return v;
  }

 private:
  std::mt19937 engine_;
};

// What is wrong with a verdict on this view; "" if nothing.
std::string broken_promise(const View& view, const Limits& limits, Nanoseconds now,
                           const Verdict& v) {
  const uint32_t staying = view.starting + view.idle + view.busy;
  const uint32_t existing = staying + view.retiring + view.recycling;
  if (v.wake_at <= now) return "it would never sleep";
  switch (v.action) {
    case Action::kGrow:
      if (v.count == 0) return "grows by nothing";
      return existing + v.count > limits.max ? "more than max" : "";
    case Action::kShrink:
      if (v.count == 0) return "shrinks by nothing";
      if (staying - v.count < limits.min) return "below min";
      if (v.reason == Reason::kAboveMax)
        return staying - v.count != limits.max ? "not down to max" : "";
      if (v.count > view.idle) return "more than are idle";
      return staying > limits.max ? "a surplus above max" : "";
    default:
      return v.count ? "a number without an action" : "";
  }
}

void any_view() {
  Dice dice(20260101);
  Nanoseconds now = kNow;
  uint32_t seen[4] = {};
  for (int round = 0; round < 2000; ++round) {
    const Limits limits = dice.limits();
    ScalerMemory memory;
    memory.step_began = now;
    for (int turn = 0; turn < 100; ++turn) {
      now += dice.below(2) * dice.below(1000) * kMillisecond * (1 + dice.below(3));
      View view = dice.view();
      Verdict v = decide(view, limits, now, memory);
      ++seen[static_cast<uint32_t>(v.action)];
      std::string broken = broken_promise(view, limits, now, v);
      CU_ASSERT_FATAL(unit::same_text(broken, ""));
      memory = v.memory;
    }
  }
  for (uint32_t times : seen) CU_ASSERT(times > 1000);  // each action had its chance
}

// What was let go is not made again at once, nor the other way round, when nothing else has changed.
void no_flapping() {
  Dice dice(7);
  uint32_t shrinks = 0;
  for (int round = 0; round < 200'000; ++round) {
    const Limits limits = dice.limits();
    View view = dice.view();
    view.peak_busy = std::max(view.peak_busy, view.busy);
    ScalerMemory memory = after_steps(100, dice.below(2) * dice.below(20));
    Verdict v = decide(view, limits, kNow + kSecond, memory);
    if (v.action == Action::kGrow) {
      view.starting += v.count;
      CU_ASSERT_FATAL(decide(view, limits, kNow + kSecond, v.memory).action != Action::kShrink);
    } else if (v.action == Action::kShrink && v.reason == Reason::kSurplus) {
      ++shrinks;
      view.idle -= v.count;
      view.retiring += v.count;
      CU_ASSERT_FATAL(decide(view, limits, kNow + kSecond, v.memory).action == Action::kNone);
    }
  }
  CU_ASSERT(shrinks > 1000);
}

}  // namespace

void add_scaler_tests() {
  static const unit::Test kTests[] = {
      {"grows by exactly what is missing", grows_by_what_is_missing},
      {"on demand, and static", on_demand_and_static},
      {"growth begins the window anew", growth_begins_the_window_anew},
      {"shrinks by half of a proven surplus", shrinks_by_proof},
      {"shrinks at the end of a step only", only_at_the_end_of_a_step},
      {"an old peak slides out of the window", an_old_peak_slides_out},
      {"lengths of steps and windows", steps_and_windows},
      {"no timer at min", no_timer_at_min},
      {"keeps the spare ones it would make again", keeps_what_it_would_grow_again},
      {"limits lowered below the pool", limits_lowered},
      {"patience doubles and halves", patience_doubles_and_halves},
      {"a burst of 200, and back to min", burst_of_200},
      {"a square wave forks once", square_wave},
      {"patience spares forks", patience_spares_forks},
      {"promises that hold for any view", any_view},
      {"no flapping", no_flapping},
  };
  unit::add_suite("scaler", kTests);
}
