// The scoreboard: the supervisor's side of the segment. It prepares a slot before fork, reads what its
// workers say, and folds a dead worker's figures into the totals. Called by the supervisor only; what
// workers write is in worker/seat.h, what control reads in shm/reader.h.
//
// Which slots are alive is private memory (`alive_`): bits that a dead or hostile worker left set in the
// shared bitmaps are masked with it and never counted.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "shm/decision.h"
#include "shm/mapping.h"
#include "shm/outcome.h"
#include "shm/peer.h"

namespace preforkd::shm {

// Debug builds: two writers of one slot at once abort, with both in the critical section. Costs
// nothing otherwise. The supervisor clears a dead worker's mark when it folds its slot.
class SlotWriter {
 public:
#ifdef PREFORKD_DEBUG
  explicit SlotWriter(Slot& slot);
  ~SlotWriter();
  SlotWriter(const SlotWriter&) = delete;
  SlotWriter& operator=(const SlotWriter&) = delete;

 private:
  Slot& slot_;
#else
  explicit SlotWriter(Slot&) {}
#endif
};

// How a worker's life ended, as the supervisor judged it.
enum class Ending {
  kRetired,   // surplus, or drained, or asked by a plain TERM
  kRecycled,  // had served its connections (a program: its one)
  kCrashed,
  kTimedOut,  // ended by us: timeouts.start, timeouts.connection, timeouts.drain
};

struct Counts {
  uint32_t starting = 0, idle = 0, busy = 0, retiring = 0;
};

class Scoreboard {
 public:
  // Writes the header: the segment becomes readable for control.
  Scoreboard(const Mapping& mapping, std::string_view pool, uint32_t generation, pid_t supervisor,
             uint32_t start_tickets, Nanoseconds now);

  // --- before fork ---
  // The lowest free slot, now `starting`, alive, and zero but for the times. Only if fewer than
  // capacity() are alive.
  uint32_t prepare(Nanoseconds now);
  void forked(uint32_t slot, pid_t pid);
  void fork_failed(uint32_t slot);

  // --- while they live ---
  Counts counts() const;
  uint32_t alive() const { return alive_count_; }
  bool is_alive(uint32_t slot) const;
  bool is_idle(uint32_t slot) const;
  // Whether connection `number` is, or kEndAny: whatever there is.
  bool is_in_hand(uint32_t slot, uint64_t number) const;
  Slot& slot(uint32_t index) const { return mapping_.slot(index); }
  Segment& segment() const { return mapping_.segment(); }
  uint32_t capacity() const { return mapping_.capacity(); }
  // Up to `count` idle slots, those that have been idle longest first.
  std::vector<uint32_t> idle_longest(uint32_t count) const;
  uint32_t take_peak();  // and begins a new window, at what is busy now
  uint32_t peak() const;

  // --- after reap ---
  struct Last {  // what the slot said when its worker died
    WorkerState state = WorkerState::kEmpty;
    PeerWords peer{};
    bool active = false;  // had a connection in hand
    bool recycle = false;
    bool client_ended = false;  // ... which its client had ended, as who held it says
    uint64_t begun = 0;
    Nanoseconds since = 0;
  };
  Last last_words(uint32_t slot) const;
  // The closer has found that the client of a program, which was reaped and is not folded yet, had ended the connection
  // (worker/client_end.h). `worker`: the program's pid.
  void note_client_ended(uint32_t slot, pid_t worker, uint64_t connection) const;
  // Folds and frees the slot. `in_hand`: what a connection that it has in hand counts as.
  void fold(uint32_t slot, Ending ending, Outcome in_hand, Nanoseconds now);

  // --- for control ---
  void record(Action action, Reason reason, uint32_t count, const Counts& counts, uint32_t queued,
              uint32_t peak, const Limits& limits, uint32_t patience, Nanoseconds now);
  void set_queued(uint32_t queued) { segment().gone.queued.store(queued); }
  void set_at_max(bool at_max, Nanoseconds now);
  void count_template();
  void count_lost_template();

 private:
  void add_up(const Slot& slot, const Last& last, Outcome in_hand, Nanoseconds now);
  void publish_sums(uint32_t passed_over);
  void set_alive(uint32_t slot, bool alive);
  void publish_scan_words();

  const Mapping& mapping_;
  const uint32_t generation_;
  const uint32_t words_;                                        // of alive_, in use
  std::array<uint64_t, kMaxCapacity / kSlotsPerWord> alive_{};  // private: one bit a slot
  uint32_t alive_count_ = 0;
  uint64_t next_decision_ = 1;
  Counters sums_;  // over the dead; Gone has copies
  uint32_t edition_ = 0;
};

}  // namespace preforkd::shm
