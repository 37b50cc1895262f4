// Tickets: process-shared POSIX semaphores that count permissions and are never locks. Nobody holds a
// ticket: taking one consumes it, so that a process may die at any instruction and block nobody.
//
// Retire tickets. To let k workers go, the supervisor posts k and nudges the k that have been idle
// longest. A nudged worker tries one; with it, it removes itself from epoll, makes one last accept, and
// leaves, or serves if that brought a connection (the ticket is gone then, and nobody minds: workers are
// counted as gone when they are reaped, tickets never are). Before each decision, and before it nudges for
// another reason, the supervisor takes back what is left.
//   A nudged worker that meanwhile took a connection finds the nudge pending at its next wait and tries a
//   ticket that was taken back or belongs to another round: at most k tickets are out, so at most k leave.
//   Killed between taking the ticket and leaving: it is gone, which is what the ticket was for.
//   Supervisor killed between posting and nudging: its workers leave because they are orphans.
//   Taken, and its bits do not say so yet, while the supervisor counts: the taker counts as staying, and one
//   more leaves. It forks one if that is too few.
// tests/model/retirement.pml is this, with the exclusive wake-up, as a model; `make model` checks it.
//
// Start tickets bound how many workers run the handler's `start` at the same time. A worker consumes one
// (sem_wait, interruptible by a signal) and says so in its slot; the supervisor posts the next when a
// starter became idle or was reaped.
//   Killed between sem_wait and saying so: a ticket is lost until no worker is starting, when the
//   supervisor sets the count right (reset). If all were lost so, with workers waiting and none
//   starting, it posts one.
//   Killed while waiting, when it was woken and had not taken the ticket yet: the wake-up is gone with it,
//   and the others would sleep beside a ticket. The supervisor passes it on when it reaps one that waited.
// A supervisor never waits on a semaphore. What a hostile worker posts is bounded by `most`. What it writes
// over a semaphore is put right before each use; should it hit the instant in between, glibc may abort the
// supervisor, or wait: it is replaced, at once or after 5 s of silence.
#pragma once

#include <semaphore.h>

#include <cstdint>

namespace preforkd::shm {

void create_tickets(sem_t& tickets, uint32_t count);  // supervisor, before the first fork
void post_tickets(sem_t& tickets, uint32_t count);    // supervisor
// Supervisor: takes back what nobody took, at most `most`. Returns how many.
uint32_t take_back_tickets(sem_t& tickets, uint32_t most);
// Supervisor: when one that waited for a ticket has died.
void pass_on_wake_up(sem_t& tickets);
bool try_ticket(sem_t& tickets);  // worker; does not block
// Worker: waits for a ticket. False if a signal came first.
bool wait_for_ticket(sem_t& tickets);

}  // namespace preforkd::shm
