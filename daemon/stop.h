// The daemon's end: pools first, then control, then what is left of anybody's, and the log process with the last line.
//
//   starting ──▶ running ──TERM, QUIT, stop──▶ finishing ──all pools over──▶ closing ──control, then log gone──▶ over
//                   └────────INT───────────────────▲ (a second TERM, or INT: everything is ended at once)
#pragma once

#include <functional>

#include "daemon/children.h"
#include "daemon/control_processes.h"
#include "daemon/log_link.h"
#include "daemon/patience.h"
#include "daemon/pool_set.h"
#include "daemon/service_status.h"

namespace preforkd {

class Stop {
 public:
  struct Calls {
    std::function<void()> end_reload;  // whatever is under way is rolled back
    std::function<bool(const Pool&)> may_be_forgotten;
  };
  Stop(EventLoop& loop, PoolSet& pools, ControlProcesses& control, LogLink& log, Children& children,
       ServiceStatus& service, Calls calls);

  // An error from now on must not end those who serve: they drain without a daemon.
  void note_started();
  bool is_running() const { return phase_ <= Phase::kRunning; }
  bool is_finishing() const { return phase_ == Phase::kFinishing; }

  void finish();    // connections in service are finished first
  void stop_now();  // at once
  // Something has changed: another process is gone, maybe.
  void go_on();
  // Of a start that failed half-way: nothing is left running.
  void end_failed_start();

 private:
  enum class Phase { kStarting, kRunning, kFinishing, kClosing };

  void begin_end(Nanoseconds patience);
  bool waits_for_predecessor();
  void forget_leavers();
  void close();
  void close_log();
  void leave_what_does_not_end();
  void end_the_rest();

  EventLoop& loop_;
  PoolSet& pools_;
  ControlProcesses& control_;
  LogLink& log_;
  Children& children_;
  ServiceStatus& service_;
  const Calls calls_;
  Phase phase_ = Phase::kStarting;
  Nanoseconds predecessor_until_ = 0;  // see waits_for_predecessor()
  PatientTimer finish_timer_{loop_};
  EventLoop::Timer end_timer_, leavers_timer_, predecessor_timer_;
};

}  // namespace preforkd
