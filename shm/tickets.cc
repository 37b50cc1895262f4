#include "shm/tickets.h"

#include <cstddef>
#include <cstring>

namespace preforkd::shm {
namespace {

// A semaphore is its count and its waiters in the first 8 bytes, and what kind of futex it is in the rest
// (sem_init sets that, and nothing changes it). Nonsense in the rest would make sem_post ask the kernel for
// nonsense: glibc aborts at the answer, or waits.
constexpr size_t kCounts = 8;

void restore_kind(sem_t& tickets) {
  static const sem_t pristine = [] {
    sem_t fresh{};
    sem_init(&fresh, /*pshared=*/1, 0);
    return fresh;
  }();
  auto* kind = reinterpret_cast<char*>(&tickets) + kCounts;
  const auto* right = reinterpret_cast<const char*>(&pristine) + kCounts;
  if (std::memcmp(kind, right, sizeof(sem_t) - kCounts) != 0)
    std::memcpy(kind, right, sizeof(sem_t) - kCounts);
}

}  // namespace

void create_tickets(sem_t& tickets, uint32_t count) { sem_init(&tickets, /*pshared=*/1, count); }

void post_tickets(sem_t& tickets, uint32_t count) {
  restore_kind(tickets);
  while (count-- > 0 && sem_post(&tickets) == 0) {
  }
}

uint32_t take_back_tickets(sem_t& tickets, uint32_t most) {
  restore_kind(tickets);
  uint32_t taken = 0;
  while (taken < most && sem_trywait(&tickets) == 0) ++taken;
  return taken;
}

// Posting is what wakes; the ticket for it is the one that lies there.
void pass_on_wake_up(sem_t& tickets) { post_tickets(tickets, take_back_tickets(tickets, 1)); }

bool try_ticket(sem_t& tickets) { return sem_trywait(&tickets) == 0; }

bool wait_for_ticket(sem_t& tickets) { return sem_wait(&tickets) == 0; }

}  // namespace preforkd::shm
