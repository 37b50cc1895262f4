// How big the pool should be: one pure function. No clock, no I/O, no state of its own: what it wants to
// remember it returns, and gets back the next time.
//
// Growth is at once, by what is missing:   min_spare + queued − idle − starting, within max.
// Shrinking is slow, by proof. The most connections busy at once during the last `shrink_after` (times
// `patience`) is the peak; the pool keeps
//     keep = (peak = 0) ? max(min, min_spare) : max(min, peak + max_spare)
// (below min_spare it would only have to grow again at once)
// and lets half of the surplus go, rounded up, at each step of max(shrink_after / 8, 0.25 s). The window
// slides in those steps, and begins anew when the pool grows. Patience doubles, up to 8, when the pool had
// to grow again within 2 × shrink_after of a shrink (it was too hasty), and halves again after as long
// without.
#pragma once

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "base/limits.h"
#include "shm/decision.h"

namespace preforkd {

// What the supervisor saw. Workers that have served their connections and wait to be replaced are left out
// of `idle` and `busy` and counted in `recycling`: the pool must be big enough without them.
struct View {
  uint32_t starting = 0, idle = 0, busy = 0;
  uint32_t retiring = 0;  // on their way out; they still count against max
  uint32_t recycling = 0;
  uint32_t queued = 0;     // connections in the accept queues
  uint32_t peak_busy = 0;  // most busy at once since the peak was last taken
};

struct ScalerMemory {
  static constexpr uint32_t kMaxPatience = 8;
  static constexpr uint32_t kMaxSteps = 8 * kMaxPatience;

  std::array<uint32_t, kMaxSteps> peaks{};  // of the last steps, a ring
  uint32_t steps = 0;                       // taken since the window began
  Nanoseconds step_began = 0;
  Nanoseconds shrank_at = 0;  // 0: not since the pool last had to grow
  uint32_t patience = 1;
  Nanoseconds patience_since = 0;
};

struct Verdict {
  Action action = Action::kNone;
  Reason reason = Reason::kNone;
  uint32_t count = 0;
  uint32_t peak = 0;             // of the window, as it was used
  bool take_peak = false;        // a step ended: the shared peak begins anew
  Nanoseconds wake_at = kNever;  // look again then, whatever happens
  ScalerMemory memory;
};

Verdict decide(const View& view, const Limits& limits, Nanoseconds now, const ScalerMemory& memory);

// The length of one step, and how many make a window.
Nanoseconds shrink_step(const Limits& limits);
uint32_t window_steps(const Limits& limits, uint32_t patience);

}  // namespace preforkd
