// A worker's life, from the fork to its last connection: as dumb as it can be, it serves one connection
// at a time. The states are in shm/worker_state.h, the protocol with the supervisor in worker/seat.h.
//
// Signals (worker/signals.h). SIGUSR1 (nudge; SIGURG for programs) and SIGUSR2 (the supervisor died) are blocked outside the
// wait, so that a worker with a connection in hand never sees them; both only end the wait. SIGTERM is
// never blocked, so that a stuck worker can be ended: with an order for the connection in hand, or without
// a supervisor, the worker dies of it at once; from anybody else it means "leave when you are done".
//
// A program is nudged with SIGURG because that is ignored by default: a nudge that is sent to an idle
// worker and arrives when it has just become a program does nothing. SIGUSR1 would kill the program.
//
// On trial (daemon/trial.h) it is not registered for wake-ups, and takes no connection: it waits for signals
// alone. The supervisor takes the mark away and then nudges: whoever saw the mark gets the nudge in its wait,
// where alone it is not blocked. Nudged for another reason it looks at the mark again. Once it has seen that it
// may accept it never looks again: nobody goes back on trial, and a hostile worker that sets the mark would
// have the others wait for a nudge that nobody sends.
//
// The supervisor killed at any moment: the parent-death signal ends the wait, and the worker exits; a busy
// one finishes its connection and looks at getppid() before it would accept the next one.
#pragma once

#include <signal.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "conf/settings.h"
#include "shm/region.h"
#include "worker/acceptor.h"
#include "worker/gate.h"
#include "worker/handler_library.h"
#include "worker/program.h"
#include "worker/seat.h"

namespace preforkd {

// What all workers of a pool have in common; made by the supervisor, borrowed by each worker.
struct WorkerPlan {
  const PoolSettings& settings;
  const shm::Mapping& mapping;
  const std::vector<int>& listen_sockets;
  const HandlerLibrary* handler;  // exactly one of the two
  const Program* program;
  pid_t supervisor;
  std::string title = "preforkd: worker " + settings.name;  // made once: a worker allocates nothing
  char comm[16] = "preforkd-worker";

  GateRules gate{settings};
  bool is_limited = settings.process.limits != ResourceLimits{};

  bool has_start() const { return handler && handler->has_start(); }
  int nudge_signal() const { return program ? SIGURG : SIGUSR1; }
};

class Worker {
 public:
  // Called in the forked child, with all signals blocked.
  Worker(const WorkerPlan& plan, uint32_t slot);

  // Returns the exit status; for a program, not at all once a client came.
  int run();

 private:
  bool wait_to_start();
  std::optional<Accepted> next_connection();
  std::optional<Accepted> last_accept(bool leaving, uint64_t from);
  void go_idle();
  void wait();
  void wait_for_verdict();
  void back_off();
  void serve(Accepted connection);
  bool is_worn_out();

  const WorkerPlan& plan_;
  Seat seat_;
  Gate gate_;
  Acceptor acceptor_;
  const Nanoseconds forked_at_ = monotonic_now();
  uint64_t recycle_from_ = 0;  // connections after which it asks to be replaced; 0 = never
  uint64_t recycle_at_ = 0;    // connections after which it leaves, replaced or not
  bool on_trial_;              // until it has seen that it is not
  bool short_told_ = false;
};

}  // namespace preforkd
