// A supervisor: keeps one pool at its right size, and does nothing else. Single-threaded; its one blocking
// point is the doorbell (shm/doorbell.h). Each turn it notes the doorbell's count, drains everything that
// there is to do, and sleeps until rung, signalled, or something falls due. With the pool at `min` and
// nothing busy nothing falls due, and it is never woken.
//
// What wakes it: a worker that left fewer idle than the low-water mark; a worker's death (SIGCHLD); a
// message of the daemon's, or its death (SIGIO on the channel); the watch, a start, a completed connection,
// when it asked for them; a TERM. Rings with nothing behind them are answered with a pause.
//
// Interleaving with workers: publish() comes before look(), so that a worker becoming busy meanwhile
// either is counted or rings. `idle` is read before `queued`: a connection accepted in between is then
// missed rather than counted twice, and its worker's ring brings the supervisor back.
//
// SIGKILL at any moment: its workers finish what they serve, and leave (worker/intake.h); the daemon starts
// the next supervisor on a new segment. Nothing of this one's memory is needed again.
#pragma once

#include <array>

#include "ipc/supervisor_args.h"
#include "supervisor/busy_watch.h"
#include "supervisor/closer.h"
#include "supervisor/daemon_reporter.h"
#include "supervisor/death_log.h"
#include "supervisor/decision_log.h"
#include "supervisor/drain.h"
#include "supervisor/restraint.h"
#include "supervisor/scaler.h"
#include "supervisor/shedder.h"
#include "supervisor/wake_time.h"
#include "supervisor/workforce.h"

namespace preforkd {

class Supervisor {
 public:
  // Of the arguments those that say how it begins: `own_sockets` (shut down if the daemon dies), `first_workers`
  // (as many as the generation had that it takes over from), `on_trial`.
  // `pairs` are those whose workers' ends the plan has; the closer's are taken.
  Supervisor(const WorkerPlan& plan, shm::Scoreboard& board, DaemonEnds& daemon,
             const SupervisorArgs& args, ClosingPairs& pairs);

  std::array<int, 2> closers_ends() const { return closer_.ends(); }
  // Returns when every worker is gone: drained, stopped, or without a daemon.
  int run();

  // Called by the log sink: a line for the daemon. Never blocks; what does not fit is counted.
  void send_log(const LogLine& line) { reporter_.send_log(line); }

 private:
  // What a turn has seen of the pool.
  struct Observed {
    Headcount headcount;
    View view;
  };
  enum class Next { kAgain, kSleep, kExit };

  // A turn: reaps and obeys, finishes what is to be finished, makes the pool as big as it should be, tells the daemon.
  Next turn(Nanoseconds now, WakeTime& wake);
  bool obey_daemon(Nanoseconds now);
  void obey(const Order& order, Nanoseconds now);
  void begin_drain(Nanoseconds timeout, uint64_t finish, Nanoseconds now);
  bool reap_workers(Nanoseconds now, WakeTime& wake);
  bool look_at_template(Nanoseconds now, WakeTime& wake);
  void note_forked(int error, Nanoseconds now, WakeTime& wake);
  void nudge_for_queue(bool at_once, Nanoseconds now, WakeTime& wake);
  void look_for_proof(Nanoseconds now, WakeTime& wake);
  bool nobody_is_left(Nanoseconds now, WakeTime& wake);
  bool queue_is_finished(Nanoseconds now, WakeTime& wake);
  bool go_on_draining(Nanoseconds now, WakeTime& wake);
  bool fork_for_queue(Nanoseconds now, WakeTime& wake);

  // How big the pool should be, and what comes of it: observe, decide() and restrain(), record, act.
  bool resize(Nanoseconds now, WakeTime& wake);
  Observed observe(Nanoseconds now);
  bool act(const Verdict& verdict, const Observed& seen, Nanoseconds now, WakeTime& wake);
  bool grow(const Verdict& verdict, Nanoseconds now, WakeTime& wake);
  bool dismiss_recyclers(const Headcount& seen, const Verdict& verdict);
  void publish(bool more_starters_than_tickets);
  void shed_load(Nanoseconds now, WakeTime& wake);

  bool tell_progress(Nanoseconds now, WakeTime& wake);
  void watch_queue(Nanoseconds now, WakeTime& wake);
  Limits in_force() const;
  Restrained::Source source();
  uint32_t queued(uint64_t which = Acceptor::kAll) const;
  bool is_full() const { return board_.alive() >= limits_.now.max; }

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  DaemonReporter reporter_;
  Closer closer_;
  Workforce workforce_;
  Shedder shedder_;
  Drain drain_;
  BusyWatch busy_watch_;
  DeathLog deaths_;
  DecisionLog decisions_;
  Restraint restraint_;
  ScalerMemory scaler_;
  struct {
    Limits now;
    uint32_t first_workers;  // wanted until it is ready
  } limits_;
  bool on_trial_;
  // Who looks after the accept queues when no worker does.
  struct {
    bool asked_daemon = false;  // to watch the listen sockets
    bool readable = false;      // ... and it saw a connection
    bool has_takers = false;    // somebody is idle, or about to be
    Nanoseconds look_again_at =
        kNever;  // an abnormal death, and connections wait: who is idle is nudged
  } queue_;
  struct {
    uint32_t fruitless = 0;   // in a row with nothing to do
    bool has_forked = false;  // the last one
  } turns_;
};

// Installs the supervisor's signal handlers, which ring `bell`. Once, before the first fork.
void install_supervisor_signals(shm::Doorbell& bell);

}  // namespace preforkd
