// What lies in the shared memory of one pool's generation. This file alone declares it; doc/SHM.md
// says the same in prose, and tests/unit holds both to the offsets below.
//
// The daemon creates the segment (shm/region.h), the supervisor maps it read-write and writes the
// header, the workers inherit that mapping over fork (a program that accepts by itself maps it again),
// and control reads it with pread through a read-only descriptor. Nothing read from it is trusted by anyone: a worker may have scribbled over
// all of it. In particular no process takes an index, a count, a size or a pid from here without
// bounding it by what it holds in private memory.
//
//   Header       what this is; written once by the supervisor before the first fork
//   Doorbell     the futex that wakes the supervisor
//   Published    what the supervisor tells its workers
//   Shared       what any worker may write: peak, tick, watch
//   Tickets      the two semaphores
//   Gone         sums over the workers that are gone, twice; the supervisor's
//   Bits[]       who is idle, who is busy; a bit has one owner, a word has 64
//   Admission[]  whose connection each worker has, where sources are limited
//   Slot[]       the truth about each worker; one writer each
//   Decision[]   why the pool grew and shrank; a ring, the supervisor's
//
// Everything is fixed-width and lock-free. Groups with different writers lie in different pairs of
// cache lines (128 bytes: x86 prefetches the adjacent line).
#pragma once

#include <semaphore.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/counters.h"
#include "shm/histogram.h"
#include "shm/region.h"
#include "shm/rejection.h"
#include "shm/worker_state.h"

namespace preforkd::shm {

using Word = std::atomic<uint32_t>;
using Long = std::atomic<uint64_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 4);
static_assert(Long::is_always_lock_free && sizeof(Long) == 8);
static_assert(sizeof(sem_t) == 32, "the layout below is that of glibc on 64-bit Linux");

inline constexpr uint64_t kMagic = 0x6d687364'6b667270;  // "prfkdshm"
inline constexpr size_t kLine = 128;
inline constexpr uint32_t kDecisions = 256;  // entries of the ring; a power of two
inline constexpr size_t kNoteWords = 16;

// Written by the supervisor before it forks for the first time; read by control.
struct alignas(kLine) Header {
  uint64_t magic;
  uint32_t version;
  uint32_t generation;
  uint64_t size;       // bytes of the whole segment
  uint32_t capacity;   // slots; a multiple of 64
  int32_t supervisor;  // pid
  uint64_t created;    // nanoseconds of CLOCK_MONOTONIC
  char pool[40];       // NUL-terminated
  uint8_t reserved[48];
};

// Protocol and interleavings: shm/doorbell.h.
struct alignas(kLine) Doorbell {
  Word
      ring;  // + 1 by whoever rings (workers, the supervisor's signal handlers); read by the supervisor
  Word
      sleeping;  // 1 by the supervisor before it waits; exchanged to 0 by the ringer that will wake it
  uint8_t reserved[120];
};

// Written by the supervisor; read by every worker each time it becomes busy or idle. One line, which
// stays shared in every core's cache because it changes rarely.
struct alignas(kLine) Published {
  Word low_water;     // a worker that leaves fewer idle than this behind rings; 0 = nobody rings
  Word scan_words;    // how many words of Bits hold a live slot (a bound for scans)
  Word ring_on;       // RingOn: what else the supervisor wants to hear of
  Word leaving;       // Leaving: whether workers are to go
  Long accept_until;  // while leaving: until then, connections that already wait are still served
  Long accept_from;   // ... on these listen sockets; bit i: the i-th, of the first 64
  Word
      saturated;  // + 1 whenever nobody is idle at `max`; the shedder waits on it (supervisor/shedder.h)
  // 0; or there are `max` workers and none of them is starting: 1, + 1 for each that is idle by its bit but stopped. So
  // nobody can take a connection if fewer than this are idle. (Kept for the shedder.)
  Word at_max;
  // Of a pool with `preload`; else 0. For show.
  Word template_pid;    // 0: there is none just now
  Word template_state;  // TemplateState
  Long template_since;  // CLOCK_MONOTONIC of the last change of either
  uint8_t reserved[72];
};
enum class TemplateState : uint32_t { kNotUsed = 0, kNone, kStarting, kStanding };
enum Leaving : uint32_t {
  kStay = 0,
  kDrain = 1,  // this generation drains: a worker leaves at its next wait, or when it is done
  kAboveMax =
      2,         // `max` was lowered: a worker that is done with a connection tries a retire ticket
  kOnTrial = 3,  // nobody accepts: the generation before serves until this one has proved itself
};
enum RingOn : uint32_t {
  kRingOnStarted = 1,    // a worker became idle for the first time
  kRingOnCompleted = 2,  // a connection was served
};

// Written by any worker. Hints and bells only: no decision rests on a count here but the peak, which
// a lost update can only leave lower by a connection that was over within the same instant.
struct alignas(kLine) Shared {
  Word peak_busy;  // most busy at once since the supervisor last exchanged it; raised by workers
  Word watch;      // armed (1) by the supervisor; the next worker to become busy takes it and rings
  Word tick;  // second (CLOCK_MONOTONIC, low 32 bits) of the last connection; control waits on it
  Word refused;  // accepts that failed for want of descriptors or memory (EMFILE, ENOBUFS, ...)
  Word recycle;  // 1: a worker has asked to be replaced since the supervisor last exchanged it
  Word reserved1;
  Long admissions;                // + 1 with each that is admitted; shm/admissions.h
  Long turned_away[kRejections];  // connections, by the shedder, by reason; nobody else writes it
  uint8_t reserved[56];
};

// Protocol: shm/tickets.h.
struct alignas(kLine) Tickets {
  sem_t start;   // a worker takes one before it runs the handler's `start`
  sem_t retire;  // a nudged worker that takes one leaves
  uint8_t reserved[64];
};

// Sums over the workers that are gone. The supervisor keeps them as plain integers in private memory, and copies them
// here whole.
using Totals = CountersOf<Long>;

// Two copies, and one word that says which counts. A reader that finds the same edition before and after
// has seen each worker either in the totals or in its slot, never in both or neither:
//   1. the supervisor writes edition n + 1 into totals[(n + 1) % 2], which nobody reads;
//   2. stores `edition` = (n + 1, slot + 1): from here on the slot's figures are in the totals, and the
//      slot itself is passed over;
//   3. clears the slot, and stores (n + 1, 0).
// Killed or held up between any two of these, it leaves a state that can be read: nobody waits for it.
struct alignas(kLine) Gone {
  Long edition;  // n in the upper 32 bits; in the lower: a slot that counts no more, + 1, or 0
  Long queued;   // connections in the accept queues when the supervisor last looked
  alignas(kLine) Totals totals[2];
};
constexpr uint64_t edition_of(uint32_t number, uint32_t passed_over) {
  return uint64_t{number} << 32 | passed_over;
}
constexpr uint32_t edition_number(uint64_t edition) { return static_cast<uint32_t>(edition >> 32); }
constexpr uint32_t edition_slot(uint64_t edition) { return static_cast<uint32_t>(edition); }

// Bit i of word w is slot 64·w + i. Set and cleared by the slot's worker; cleared by the supervisor
// when it has reaped that worker.
struct Bits {
  Long idle, busy;
};

// The slot's worker writes it; the supervisor clears it when it has reaped that worker. Close together: whoever
// is admitted looks at all of them. Protocol and interleavings: shm/admissions.h.
struct Admission {
  Long source;  // base/networks.h: source_of()
  Word state;   // 0 none, 1 pending, 2 admitted
  Word reserved;
};

struct alignas(kLine) Slot {
  // The supervisor's part: before fork, orders to this one worker, after reap.
  // 0: the slot was made ready, and nobody was forked yet. Written by the worker first of all, and by the supervisor after a
  // row of forks. For show; and when all of a generation are dead, how each ended goes by it (control/totals.h).
  Word pid;
  Word generation;
  Long forked_at;  // CLOCK_MONOTONIC
  Long end;        // the number of the connection that must end now; kEndAny: whatever it does
  Word leave;      // 1: leave at your next wait (recycling: the replacement is there)
  Word writer;     // debug builds: who is writing this slot (shm/scoreboard.h)
  // Of a program's connection: that its client had ended it (client_end_of()), or 0. Written between reap and fold, when the
  // closer, which held that connection longer than the program, has answered. It says whose connection it is about, and
  // of any other it says nothing.
  Long client_ended;
  uint8_t reserved1[80];

  // The worker's part. `served`, `failed` and `aborted` lie before `begun`, and readers read them in that order:
  // 0 ≤ begun − served − failed − aborted ≤ 1 then holds for what they saw, and figures never fall.
  alignas(kLine) Word state;  // WorkerState
  Word starting_step;         // StartingStep, while state is starting
  Long since;  // CLOCK_MONOTONIC of the last change of state, or of the connection's begin
  Long served;
  Long failed;
  Long aborted;
  Long begun;  // connections taken; the number of the current or last one
  Long busy_ns;
  Long max_us;
  Long peer[3];  // shm/peer.h
  Word
      recycle;  // 1: would like to be replaced: has served its connections, or its handler asked for it
  Word reserved2;
  Long
      extended_until;  // CLOCK_MONOTONIC: the connection in hand may take until then; 0: as configured
  Word rejected[kRejections];  // connections that it turned away; shm/rejection.h
  uint8_t reserved3[4];

  alignas(kLine) Word histogram[kHistogramBuckets];
  alignas(kLine) Long note[kNoteWords];  // what it is doing with the connection in hand; shm/note.h
};
inline constexpr uint64_t kEndAny = ~uint64_t{0};
constexpr uint64_t client_end_of(uint32_t worker, uint64_t connection) {
  return uint64_t{worker} << 32 | static_cast<uint32_t>(connection);
}
enum class StartingStep : uint32_t { kForked = 0, kWaitsForTicket, kHasTicket };

// One decision and what it was made from. `sequence` is its number (from 1), 0 while it is written.
struct Decision {
  Long sequence;
  Long at;      // CLOCK_MONOTONIC
  Word action;  // shm/decision.h: Action
  Word reason;  // Reason
  Word count;   // workers forked or told to retire
  Word idle, busy, starting, queued, peak;
  Word min, max, min_spare, max_spare;  // kLimitsOfDecision has them by their places in kLimitRows
  Word patience;                        // the factor on shrink_after
  uint32_t reserved;
};

// Of base/limits.h: kLimitRows, those in workers.
inline constexpr Word Decision::*kLimitsOfDecision[] = {&Decision::min, &Decision::max,
                                                        &Decision::min_spare, &Decision::max_spare};

static_assert(sizeof(Header) == 128 && sizeof(Doorbell) == 128 && sizeof(Published) == 128);
static_assert(sizeof(Shared) == 128 && sizeof(Tickets) == 128);
static_assert(sizeof(Totals) == sizeof(Counters) && offsetof(Gone, totals) == 128);
static_assert(sizeof(Bits) == 16 && sizeof(Admission) == 16 && sizeof(Decision) == 72);
static_assert(offsetof(Slot, state) == 128 && offsetof(Slot, since) == 136);
static_assert(offsetof(Slot, served) == 144 && offsetof(Slot, failed) == 152);
static_assert(offsetof(Slot, client_ended) == 32 && offsetof(Slot, aborted) == 160);
static_assert(offsetof(Slot, begun) == 168 && offsetof(Slot, peer) == 192);
static_assert(offsetof(Slot, extended_until) == 224 && offsetof(Slot, rejected) == 232);
static_assert(offsetof(Slot, histogram) == 256);
static_assert(offsetof(Slot, note) == 1536 && sizeof(Slot) == 1664);

// The counters that a worker keeps in its slot: visit(is_sum, number in the slot, number in `counters`).
template <class AnySlot, class AnyCounters, class Visit>
void for_each_slot_counter(AnySlot& slot, AnyCounters& counters, Visit visit) {
  visit(true, slot.served, counters.served);
  visit(true, slot.failed, counters.failed);
  visit(true, slot.aborted, counters.aborted);
  visit(true, slot.busy_ns, counters.busy_ns);
  visit(false, slot.max_us, counters.max_us);
  for (size_t i = 0; i < kRejections; ++i) visit(true, slot.rejected[i], counters.rejected[i]);
  for (size_t i = 0; i < kHistogramBuckets; ++i)
    visit(true, slot.histogram[i], counters.histogram[i]);
}

// Where each part begins. The first six are fixed, the arrays follow by capacity.
struct Segment {
  Header header;
  Doorbell doorbell;
  Published published;
  Shared shared;
  Tickets tickets;
  Gone gone;
};
static_assert(offsetof(Segment, doorbell) == 128 && offsetof(Segment, published) == 256);
static_assert(offsetof(Segment, shared) == 384 && offsetof(Segment, tickets) == 512);
static_assert(offsetof(Segment, gone) == 640);

constexpr size_t bits_offset() { return sizeof(Segment); }
constexpr size_t in_lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }
constexpr size_t admissions_offset(uint32_t capacity) {
  return bits_offset() + in_lines(size_t{capacity} / kSlotsPerWord * sizeof(Bits));
}
constexpr size_t slots_offset(uint32_t capacity) {
  return admissions_offset(capacity) + in_lines(size_t{capacity} * sizeof(Admission));
}
constexpr size_t decisions_offset(uint32_t capacity) {
  return slots_offset(capacity) + size_t{capacity} * sizeof(Slot);
}
constexpr size_t segment_size(uint32_t capacity) {
  return decisions_offset(capacity) + kDecisions * sizeof(Decision);
}

}  // namespace preforkd::shm
