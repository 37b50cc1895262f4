// The doorbell: how a supervisor that sleeps is woken, by its workers, by its own signal handlers, and
// by nobody else. It is the supervisor's one blocking point.
//
//   ringer                             supervisor
//   ring += 1                          seen = ring            (before it looks at anything)
//   if sleeping was 1, make it 0,      ... looks, decides, acts ...
//     ring += 1 once more              sleeping = 1
//     and FUTEX_WAKE                   FUTEX_WAIT(ring == seen)
//                                      sleeping = 0
//
// All accesses are seq_cst; the kernel compares `ring` under its own lock.
// tests/model/doorbell.pml is this as a model; `make model` checks that no wake-up is lost.
//
// No wake-up is lost: a ring after `seen` was read changes `ring`, so FUTEX_WAIT returns at once. If
// the ringer reads sleeping == 0, either it came before the supervisor's store in the single order, so
// its increment came before FUTEX_WAIT's comparison; or another ringer took the flag after that store, and
// wakes the supervisor. If it reads 1 and takes it, it makes the system call; should the supervisor
// not wait yet, the second increment, which comes after `seen` was read, keeps it from waiting. (Without
// that, the call would find nobody, and the supervisor would sleep with the flag at 0.)
// One wake-up a sleep: of several ringers the exchange lets one make the system call.
// A signal handler only adds 1 (it must not make system calls): if it runs before FUTEX_WAIT, the
// comparison fails; if during, FUTEX_WAIT returns EINTR (the handlers are installed without SA_RESTART).
//
// A ringer killed after += 1 and before FUTEX_WAKE, or after it took `sleeping`: nobody else would make
// the call, but its death is a SIGCHLD, which interrupts the wait.
// The supervisor killed: its workers learn it from the parent-death signal; nobody waits for it here.
// A hostile worker that holds `sleeping` at 0 or puts `ring` back keeps its own pool from growing until
// the next signal (a child's death, a message from the daemon, which is repeated until acknowledged) or
// the next timer. One that rings without end costs the supervisor a pause: see rest().
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "shm/layout.h"

namespace preforkd::shm {

// Called by a worker. Makes a system call only if the supervisor sleeps.
void ring(Doorbell& bell);

// Called by the supervisor's signal handlers.
inline void ring_from_signal(Doorbell& bell) { bell.ring.fetch_add(1, std::memory_order_seq_cst); }

// Called by the supervisor: what `ring` is before it looks.
inline uint32_t rings(const Doorbell& bell) { return bell.ring.load(std::memory_order_seq_cst); }

// Called by the supervisor: sleeps until somebody rings, a signal arrives, or `deadline` (kNever: no
// timeout). Returns at once if `ring` is not `seen` any more.
void sleep_until_rung(Doorbell& bell, uint32_t seen, Nanoseconds deadline);

// Called by the supervisor against a flood of rings with nothing behind them: deaf to rings until
// `deadline`, but not to signals. `signals` is a counter in private memory that its signal handlers
// raise too, and `seen` its value before the last look.
void rest(const Word& signals, uint32_t seen, Nanoseconds deadline);

// Sleeps while the word has this value. Returns at times for no reason.
void sleep_on(const Word& word, uint32_t seen);

// FUTEX_WAKE on a word of the segment (the tick). Shared, not private: the waiter is another process.
void wake_all(const Word& word);

}  // namespace preforkd::shm
