// shm/worker_state: every pair of states, against a list written by hand from the drawing.
#include "shm/worker_state.h"

#include <algorithm>
#include <iterator>

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

using enum WorkerState;

constexpr WorkerState kAll[] = {kEmpty, kStarting, kIdle, kBusy, kRetiring};

void every_pair() {
  static const struct {
    WorkerState from, to;
    bool operator==(const std::pair<WorkerState, WorkerState>& p) const {
      return from == p.first && to == p.second;
    }
  } kAllowed[] = {
      {kEmpty, kStarting},  // prepared for a fork
      {kStarting, kIdle},
      {kStarting, kRetiring},  // started, or told to leave meanwhile
      {kIdle, kBusy},
      {kIdle, kRetiring},  // a connection, or nudged
      {kBusy, kBusy},
      {kBusy, kIdle},
      {kBusy, kRetiring},
      {kRetiring, kBusy},  // its last accept brought a connection
      // reaped, whatever state that left behind
      {kStarting, kEmpty},
      {kIdle, kEmpty},
      {kBusy, kEmpty},
      {kRetiring, kEmpty},
  };
  static_assert(std::size(kAll) == kWorkerStates);
  for (WorkerState from : kAll)
    for (WorkerState to : kAll) {
      bool allowed = std::find(std::begin(kAllowed), std::end(kAllowed), std::pair(from, to)) !=
                     std::end(kAllowed);
      if (worker_may_move(from, to) != allowed)
        std::printf("\n  %s → %s\n", worker_state_name(from), worker_state_name(to));
      CU_ASSERT_EQUAL(worker_may_move(from, to), allowed);
    }
}

void nonsense() {
  for (uint32_t n : {kWorkerStates, kWorkerStates + 1, 255u, ~0u}) {
    auto state = static_cast<WorkerState>(n);
    for (WorkerState other : kAll) {
      CU_ASSERT_FALSE(worker_may_move(state, other));
      CU_ASSERT_FALSE(worker_may_move(other, state));
    }
    CU_ASSERT(unit::same_text(worker_state_name(state), "invalid"));
  }
}

void names() {
  static const char* const kNames[] = {"empty", "starting", "idle", "busy", "retiring"};
  for (WorkerState state : kAll)
    CU_ASSERT(unit::same_text(worker_state_name(state), kNames[static_cast<uint32_t>(state)]));
}

}  // namespace

void add_worker_state_tests() {
  static const unit::Test kTests[] = {
      {"every pair of the table", every_pair},
      {"what is no state moves nowhere", nonsense},
      {"names", names},
  };
  unit::add_suite("worker_state", kTests);
}
