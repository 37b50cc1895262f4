#include "shm/tickets.h"

#include <cerrno>

namespace preforkd::shm {

void create_tickets(sem_t& tickets, uint32_t count) { sem_init(&tickets, /*pshared=*/1, count); }

void post_tickets(sem_t& tickets, uint32_t count) {
  while (count-- > 0 && sem_post(&tickets) == 0) {
  }
}

uint32_t take_back_tickets(sem_t& tickets, uint32_t most) {
  uint32_t taken = 0;
  while (taken < most && sem_trywait(&tickets) == 0) ++taken;
  return taken;
}

// Posting is what wakes; the ticket for it is the one that lies there.
void pass_on_wake_up(sem_t& tickets) { post_tickets(tickets, take_back_tickets(tickets, 1)); }

bool try_ticket(sem_t& tickets) { return sem_trywait(&tickets) == 0; }

bool wait_for_ticket(sem_t& tickets) { return sem_wait(&tickets) == 0; }

}  // namespace preforkd::shm
