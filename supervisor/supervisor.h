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

#include <string>

#include "base/log.h"
#include "ipc/channel.h"
#include "ipc/message_pipe.h"
#include "ipc/supervisor_args.h"
#include "ipc/supervisor_messages.h"
#include "supervisor/breaker.h"
#include "supervisor/closer.h"
#include "supervisor/scaler.h"
#include "supervisor/shedder.h"
#include "supervisor/workforce.h"

namespace preforkd {

// The two that lead to the daemon. Closed together: when the daemon has died, and in every worker.
struct DaemonEnds {
  Channel orders;
  Outbox reports;

  DaemonEnds(Channel from, Outbox to) : orders(std::move(from)), reports(std::move(to)) {}
  bool is_open() const { return orders.is_open(); }
  void close() {
    orders.close();
    reports.close();
  }
};

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

  // Called by the log sink: a line for the daemon. Never blocks; what does not fit is counted. In any other
  // process than the supervisor (a worker, the shedder), and without a daemon, it goes to descriptor 2.
  void send_log(const LogLine& line);

 private:
  // One turn's parts, in the order in which run() calls them. Each says whether it did something.
  bool obey_daemon(Nanoseconds now);
  bool nobody_is_left(Nanoseconds now);
  bool reap_workers(Nanoseconds now);
  bool settle(Nanoseconds now);
  void look_for_proof(Nanoseconds now);
  bool dismiss_recyclers(const Workforce::Headcount& seen, const Verdict& verdict);
  bool tell_progress(Nanoseconds now);
  std::string what_degrades() const;
  Limits in_force() const;
  void arm(Nanoseconds now);
  bool may_measure(Nanoseconds now);
  void shed_load(Nanoseconds now);

  void obey(const Order& order, Nanoseconds now);
  void acknowledge(uint32_t number);
  void drain(Nanoseconds timeout, uint64_t finish, Nanoseconds now);
  void give_time(Nanoseconds length);
  void give_up_sockets();
  void tell_death(const Workforce::Death& death, Nanoseconds now);
  void tell_of_the_others(Nanoseconds now);
  bool somebody_joins(Nanoseconds now);
  bool queue_is_finished(Nanoseconds now);
  bool fork_for_queue(Nanoseconds now);
  void publish(bool more_starters_than_tickets);
  Nanoseconds may_fork_at() const;
  void restrain(Verdict& verdict, Nanoseconds now);
  bool grow(const Verdict& verdict, Nanoseconds now);
  void note_at_max(const View& view, Nanoseconds now);
  void note_fork_failure(int error, Nanoseconds now);
  uint32_t queued(uint64_t which = Acceptor::kAll) const;
  bool say(ReportType type, uint32_t number = 0, const std::string& text = "");

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  DaemonEnds& daemon_;
  uint32_t own_sockets_;
  Closer closer_;
  Workforce workforce_;
  Shedder shedder_;
  Limits limits_;
  const uint32_t first_workers_;
  ScalerMemory memory_;
  Breaker breaker_;

  static constexpr Nanoseconds kSayAgain = 100 * kMillisecond;  // what did not fit into the channel
  enum class Course { kServing, kDraining, kEnding };
  Course course_ = Course::kServing;
  Nanoseconds drain_ends_ = kNever;
  Nanoseconds queue_ends_ = 0;  // until then what waits in the accept queues of `finish_` is served
  // Until then who is still shaking hands is waited for; somebody was, until the next look.
  Nanoseconds handshakes_end_ = 0, look_at_handshakes_ = 0;
  uint64_t finish_ = 0;  // bit i: the i-th listen socket

  Nanoseconds due_ = kNever;  // of this turn: the earliest thing that needs a look
  Nanoseconds look_again_at_ =
      kNever;                    // an abnormal death, and connections wait: who is idle is nudged
  Nanoseconds paced_until_ = 0;  // workers are lost faster than others are forked
  Budget told_of_deaths_;        // in the log, one by one
  uint32_t untold_deaths_ = 0;
  Nanoseconds measure_at_ = kNever;  // the workers' memory, if there is a limit
  bool watch_is_armed_ = false;
  Nanoseconds fork_retry_at_ = 0;
  uint32_t fork_failures_ = 0;  // in a row
  int fork_error_ = 0;
  Nanoseconds say_at_max_at_ = 0;           // not before
  Action recorded_action_ = Action::kNone;  // a hold is recorded once
  Reason recorded_reason_ = Reason::kNone;
  uint32_t lost_lines_ = 0;
  uint32_t fruitless_ = 0;   // turns in a row with nothing to do
  bool has_forked_ = false;  // in this turn
  bool watching_ = false;    // the daemon was asked to watch the listen sockets
  bool readable_ = false;    // ... and it saw a connection
  bool idle_or_starting_ = false;
  bool on_trial_;

  // What the daemon was told last, so that a report that did not fit is sent again.
  bool told_ready_ = false, told_degraded_ = false, told_quiet_ = false;
  std::string last_death_;
};

// Installs the supervisor's signal handlers, which ring `bell`. Once, before the first fork.
void install_supervisor_signals(shm::Doorbell& bell);

}  // namespace preforkd
