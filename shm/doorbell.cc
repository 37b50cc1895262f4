#include "shm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace preforkd::shm {
namespace {

// FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC.
void futex_wait(const Word& word, uint32_t expected, Nanoseconds deadline) {
  timespec until = to_timespec(deadline);
  syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, expected, deadline == kNever ? nullptr : &until,
          nullptr, FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(const Word& word, int waiters) {
  syscall(SYS_futex, &word, FUTEX_WAKE, waiters, nullptr, nullptr, 0);
}

}  // namespace

void ring(Doorbell& bell) {
  bell.ring.fetch_add(1, std::memory_order_seq_cst);
  // The load keeps the line shared while the supervisor is awake; the exchange elects one ringer.
  if (bell.sleeping.load(std::memory_order_seq_cst) != 0 &&
      bell.sleeping.exchange(0, std::memory_order_seq_cst) != 0) {
    // The supervisor may have read the 1 above as `seen`, and not wait yet: it must not begin to.
    bell.ring.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(bell.ring, 1);
  }
}

void sleep_until_rung(Doorbell& bell, uint32_t seen, Nanoseconds deadline) {
  bell.sleeping.store(1, std::memory_order_seq_cst);
  futex_wait(bell.ring, seen, deadline);
  bell.sleeping.store(0, std::memory_order_seq_cst);
}

void rest(const Word& signals, uint32_t seen, Nanoseconds deadline) {
  futex_wait(signals, seen, deadline);
}

void sleep_on(const Word& word, uint32_t seen) { futex_wait(word, seen, kNever); }

void wake_all(const Word& word) { futex_wake(word, INT_MAX); }

}  // namespace preforkd::shm
