// How many connections one source has at once, derived from who serves it now: nothing is counted up and
// down, so nothing can drift. Used by workers of a pool with a `per_source`, each for its own place in the table.
//
//   1. v = version                       3. mine = pending
//   2. look at all: if `limit` of this   4. version: v → v + 1, in one step; if that fails
//      source are admitted, refuse;         (somebody was admitted meanwhile), mine = none,
//      if they are only with those          and again from 1
//      pending, look again               5. mine = admitted
//
// Never more than `limit`: all is seq_cst. Of two admissions let A's step 4 come first. If B's step 1 came after
// it, B's look sees A, which was pending before its step 4. If B's step 1 came before it, B's step 4 fails.
// Nobody is refused because of one that is refused itself: only those admitted are a reason, and one who
// is pending is soon admitted or gone; it waits for nobody.
//   Killed while pending or admitted: its place stays until the supervisor has reaped it, and clears it.
//   Meanwhile it counts, and others look again at one pending at most kLooks times before they take it
//   for admitted. (Or refuse when they always find others: under a storm from one source, rather than over the limit.)
// A hostile worker can have its own pool's clients refused, or too many let in.
#pragma once

#include <cstdint>

#include "shm/mapping.h"

namespace preforkd::shm {

// Called by the worker of `slot`, which has no other connection. False: `source` has `limit` already.
bool admit(const Mapping& mapping, uint32_t slot, uint64_t source, uint32_t limit);

// Called by that worker when the connection is over, and by the supervisor for one it has reaped.
inline void end_admission(const Mapping& mapping, uint32_t slot) {
  mapping.admission(slot).state.store(0);
}

}  // namespace preforkd::shm
