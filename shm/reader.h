// Reads a segment from outside: control's view. Everything goes through pread on the read-only
// descriptor, so that a segment that shrank is a short read and never a SIGBUS, and everything read is
// bounded: a hostile worker can make the figures of its own pool wrong, and nothing else.
//
// Consistency: workers write while this reads. Each slot's `served`, `failed` and `aborted` are read before its
// `begun` (lower addresses first), so begun less those three is 0 or 1 and no sum ever falls. The edition
// of the totals (shm/layout.h) is read before and after; if the supervisor folded a slot in meanwhile, all
// is read again. (At most 100 times: a worker that scribbles over it must not keep control busy.)
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/limits.h"
#include "shm/counters.h"
#include "shm/decision.h"
#include "shm/layout.h"
#include "shm/note.h"
#include "shm/peer.h"
#include "shm/worker_state.h"

namespace preforkd::shm {

struct WorkerView {
  uint32_t slot = 0, pid = 0, generation = 0;
  WorkerState state = WorkerState::kEmpty;
  bool waits_for_start_ticket = false;
  Nanoseconds since = 0, forked_at = 0;
  uint64_t served = 0, failed = 0, aborted = 0, busy_ns = 0, max_us = 0;
  bool active = false;        // has a connection in hand
  bool client_ended = false;  // ... which its client had ended, as who held it says
  PeerWords peer{};           // of the current connection, or of the last one
  NoteWords note{};           // likewise
};

struct DecisionView {
  uint64_t number = 0;
  Nanoseconds at = 0;
  Action action{};
  Reason reason{};
  uint32_t count = 0, idle = 0, busy = 0, starting = 0, queued = 0, peak = 0;
  uint32_t patience = 0;
  Limits limits{};  // those in workers
};

// What new workers are forked from, where they are (preload).
struct TemplateView {
  TemplateState state = TemplateState::kNotUsed;
  uint32_t pid = 0;  // 0: there is none just now
  Nanoseconds since = 0;
};

struct Snapshot {
  uint32_t generation = 0, capacity = 0;
  TemplateView template_view;
  Counters figures;
  std::vector<WorkerView> workers;  // live slots only, by slot
  uint32_t starting = 0, idle = 0, busy = 0, retiring = 0, active = 0;
  uint32_t peak_busy = 0;  // in the supervisor's current window
  uint64_t queued = 0;     // when the supervisor last looked; see base/backlog.h for now
};

class SegmentReader {
 public:
  explicit SegmentReader(UniqueFd read_only) : fd_(std::move(read_only)) {}

  // Nothing if the segment is not of this layout (yet): the supervisor writes the header first of all.
  std::optional<Snapshot> read(Nanoseconds now) const;
  std::vector<DecisionView> decisions() const;  // oldest first, at most kDecisions

  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace preforkd::shm
