// The vocabulary of the pool's decisions, as they stand in the ring: decide() (supervisor/scaler.h) makes
// them, the supervisor records them, control explains them.
#pragma once

#include <cstdint>

namespace preforkd {

enum class Action : uint32_t {
  kNone = 0,
  kGrow,    // `count` workers were forked
  kShrink,  // `count` workers were told to retire
  kHold,    // it wanted to grow and could not (the reason says why); recorded once until that ends
};

enum class Reason : uint32_t {
  kNone = 0,
  kBelowMin,  // fewer workers than `min`
  kDemand,  // more idle workers are needed, to spare and for who is queued, than are idle or starting
  kAtMax,       // as kDemand, but the pool is at `max`
  kSurplus,     // more workers than the peak of the window and max_spare ask for
  kAboveMax,    // `max` was lowered below the workers that exist
  kRecycle,     // replacements for workers that have served their connections
  kBreaker,     // workers died one after the other: one at a time, after a pause
  kForkFailed,  // the system refused a process: again after a pause
  kNoTemplate,  // there is none to fork from: when it has come to its point (preload)
};

constexpr const char* action_name(Action a) {
  constexpr const char* kNames[] = {"none", "grow", "shrink", "hold"};
  auto i = static_cast<uint32_t>(a);
  return i < 4 ? kNames[i] : "invalid";
}

constexpr const char* reason_name(Reason r) {
  constexpr const char* kNames[] = {"none",        "below_min",  "demand",  "at_max",
                                    "surplus",     "above_max",  "recycle", "breaker",
                                    "fork_failed", "no_template"};
  auto i = static_cast<uint32_t>(r);
  return i < 10 ? kNames[i] : "invalid";
}

}  // namespace preforkd
