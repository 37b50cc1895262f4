// The life of a worker, as its slot shows it: the one table of transitions.
//
//   empty ──▶ starting ──▶ idle ⇄ busy
//               │           │      │
//               └───────────┴──▶ retiring ──▶ empty
//
// The supervisor moves a slot from empty to starting before it forks and back to empty when it has
// reaped the process, whatever state that left behind. Every other step is the worker's own.
// busy → busy is a worker that found its next connection already waiting. busy → retiring is a worker
// that was recycled or is draining; retiring → busy is one whose last accept brought a connection.
// A program per connection ends its life in busy: it has become the program and exits.
#pragma once

#include <cstdint>

namespace preforkd {

enum class WorkerState : uint32_t { kEmpty = 0, kStarting, kIdle, kBusy, kRetiring };
inline constexpr uint32_t kWorkerStates = 5;

constexpr const char* worker_state_name(WorkerState state) {
  constexpr const char* kNames[kWorkerStates] = {"empty", "starting", "idle", "busy", "retiring"};
  auto index = static_cast<uint32_t>(state);
  return index < kWorkerStates ? kNames[index] : "invalid";
}

// Whether the owner of the slot at that moment may move it from one state to the other.
constexpr bool worker_may_move(WorkerState from, WorkerState to) {
  // One bit a pair, in the code itself: a table is one page more that a fresh worker has to touch.
  constexpr uint32_t kMay = [] {
    constexpr bool kTable[kWorkerStates][kWorkerStates] = {
        // to: empty  starting idle   busy   retiring       from:
        {false, true, false, false, false},  // empty
        {true, false, true, false, true},    // starting
        {true, false, false, true, true},    // idle
        {true, false, true, true, true},     // busy
        {true, false, false, true, false},   // retiring
    };
    uint32_t bits = 0;
    for (uint32_t f = 0; f < kWorkerStates; ++f)
      for (uint32_t t = 0; t < kWorkerStates; ++t)
        bits |= uint32_t{kTable[f][t]} << (f * kWorkerStates + t);
    return bits;
  }();
  auto f = static_cast<uint32_t>(from), t = static_cast<uint32_t>(to);
  return f < kWorkerStates && t < kWorkerStates && (kMay >> (f * kWorkerStates + t) & 1) != 0;
}

}  // namespace preforkd
