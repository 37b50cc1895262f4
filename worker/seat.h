// A worker's half of the protocol: its slot, its two bits, the doorbell, the tickets. One Seat per
// worker process; nothing here blocks but wait_to_start(). (The supervisor's half is shm/scoreboard.h.)
//
// Becoming busy. The slot first (a reader of the slot never sees a bit without its reason), then
// `busy` set and `idle` cleared, then the loads that decide whether to ring. The supervisor does the
// mirror image: it publishes its low-water mark, arms `watch`, and then reads the bits. All of it is
// seq_cst, so one of the two sees the other: either the supervisor counts this worker as busy, or this
// worker sees the mark and rings. (Read-modify-writes with seq_cst loads after them are enough for that;
// a separate fence would say the same twice, and ThreadSanitizer does not understand fences.)
//   Killed between any two steps: the slot says which connection was in hand (`begun` is raised with the
//   accept, before anything else), and the bits are the supervisor's to clear.
//   A connection accepted, and killed before `begun`: the client sees a reset, and no figure counts it:
//   it was never begun. One instruction later it is counted as failed.
// While connections wait, a worker goes from busy to busy and touches no bit at all.
//
// Ending one connection. The supervisor writes its number N to the slot's `end`, and then looks whether N
// is still in hand; if not, it takes the order back. The worker counts N as done and then looks at `end`.
// Again one of the two sees the other: a worker that finished N just in time finds the order and leaves
// without accepting, so the TERM (whose handler compares numbers) and the KILL behind it never reach the
// next client.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>

#include "base/clock.h"
#include "shm/mapping.h"
#include "shm/outcome.h"
#include "shm/peer.h"
#include "shm/rejection.h"

namespace preforkd {

class Seat {
 public:
  Seat(const shm::Mapping& mapping, uint32_t slot);

  // The slot is this process's. (The supervisor writes that, too, when it has forked a row of workers; one that is killed
  // before has left those with figures that nobody could tell the owner of.)
  void claim(pid_t self);
  // Takes a start ticket. False: a signal came first.
  bool wait_to_start();
  void started(Nanoseconds now);  // starting → idle

  // Busy with a connection that may yet be refused: it is not counted before begin().
  void receive(Nanoseconds now, const shm::PeerWords& peer);
  void reject(Rejection reason);                            // counts
  void begin(Nanoseconds now, const shm::PeerWords& peer);  // idle, busy or retiring → busy
  void note(std::string_view text);             // what it does with the connection in hand
  void extend(Nanoseconds until);               // the supervisor ends that one not before then
  void done(Nanoseconds now, Outcome outcome);  // counts; the worker is busy until it says idle
  void idle(Nanoseconds now);                   // busy → idle
  void retire(Nanoseconds now);                 // idle or busy → retiring

  bool is_one_too_many();                // above max, and there was a ticket: leave when done
  bool may_retire();                     // takes a retire ticket, if there is one
  bool is_on_trial() const;              // nobody of the generation accepts yet
  bool must_leave() const;               // the generation drains, or this worker is to be replaced
  bool must_end(uint64_t number) const;  // the supervisor ordered the end of connection `number`
  // While leaving: the listen sockets (bit i: the i-th) on which what waits already is still served.
  uint64_t still_accepts_from(Nanoseconds now) const;
  void ask_for_recycling();  // and rings, once: the supervisor has a replacement made
  void refused();            // accept failed for want of descriptors or memory

  uint64_t begun() const { return begun_; }
  bool is_busy() const { return busy_; }
  bool is_serving() const {
    return begun_ > served_ + failed_ + aborted_;
  }  // has a connection in hand
  bool is_retiring() const { return state_ == WorkerState::kRetiring; }
  // Others, busy at this worker's last begin(), itself included.
  uint32_t busy_seen() const { return busy_seen_; }

 private:
  void move_to(WorkerState state);
  void become_busy();
  void count_and_ring();
  void tick(Nanoseconds now);

  shm::Segment& segment_;
  shm::Slot& slot_;
  shm::Bits& bits_;
  const shm::Mapping& mapping_;
  const uint64_t bit_;
  // What this worker needs to know of itself, in private memory.
  WorkerState state_ = WorkerState::kStarting;
  bool busy_ = false;
  bool noted_ = false, extended_ = false;  // the slot says something of the connection in hand
  bool asked_ = false;                     // to be replaced
  uint64_t begun_ = 0, served_ = 0, failed_ = 0, aborted_ = 0, busy_ns_ = 0, max_us_ = 0;
  Nanoseconds began_at_ = 0;
  uint32_t busy_seen_ = 0;
};

}  // namespace preforkd
