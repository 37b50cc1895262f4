// Sheds load: while all workers of a pool at its `max` are busy and more than `saturation.queue` connections wait, or as
// many as the kernel lets wait (net.core.somaxconn may be less), one extra process takes the oldest of them, answers
// with `saturation.message`, and closes. (Without a message there is none: the kernel's queue holds who waits.)
//
// It sleeps on a futex word of its own (Published.saturated) until the supervisor has seen that nobody is idle at
// `max`; then it is registered on the listen sockets, edge-triggered: each that arrives wakes it once, to count.
// As soon as it sees an idle worker (more of them than are stopped by a signal) it is unregistered, and sleeps
// again: while the pool is not saturated it costs nothing, and takes nothing.
//
//   supervisor                                    shedder
//   (a worker left nobody idle, and rang)         seen = saturated
//   looks: at max, nobody idle                    while that holds: sheds, waits for an arrival
//   saturated += 1, FUTEX_WAKE                    FUTEX_WAIT(saturated == seen)
//
// A worker that becomes idle meanwhile takes who waits itself; the next one that leaves nobody idle rings again,
// and the increment, after `seen` was read, keeps the shedder from sleeping over it.
//   Killed at any moment: at most the client it was just about to answer sees its connection end without the
//   message, and is not counted. The supervisor makes another one when it is wanted, at most one a second.
//   The supervisor killed: it ends with it (the parent-death signal).
// Who would not be let in is closed without an answer, as far as can be told before a PROXY header is read.
// A hostile worker can have its own pool's clients turned away, or not.
#pragma once

#include <sys/types.h>

#include <functional>

#include "worker/worker.h"

namespace preforkd {

// The supervisor's hold on that process.
class Shedder {
 public:
  // `before_work` runs in the child first of all: it lets go of what only the supervisor may hold.
  Shedder(const WorkerPlan& plan, std::function<void()> before_work);
  ~Shedder() { stop(); }
  Shedder(const Shedder&) = delete;
  Shedder& operator=(const Shedder&) = delete;

  bool is_configured() const { return !plan_.settings.saturation_message.empty(); }
  // Called when the pool is at `max` and nobody is idle. Forks it if it is not there. Returns when to call it
  // again, should that last: kNever, or when a fork may be tried again.
  Nanoseconds wake(Nanoseconds now);
  void stop();
  // Called for each child that was reaped, or has changed otherwise: whether it was this one.
  bool was(pid_t changed, int status);
  bool is(pid_t pid) const { return pid_ != 0 && pid == pid_; }

 private:
  [[noreturn]] void shed() const;

  const WorkerPlan& plan_;
  std::function<void()> before_work_;
  pid_t pid_ = 0;
  Nanoseconds fork_again_at_ = 0;
};

}  // namespace preforkd
