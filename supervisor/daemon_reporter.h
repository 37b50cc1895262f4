// What a supervisor tells its daemon (ipc/supervisor_messages.h). Nothing waits: what does not fit into the pipe is said again
// at the next turn, if it is a state, or counted, if it is a line of the log.
#pragma once

#include <string>

#include "base/log.h"
#include "ipc/channel.h"
#include "ipc/message_pipe.h"
#include "ipc/supervisor_messages.h"
#include "supervisor/wake_time.h"

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

class DaemonReporter {
 public:
  DaemonReporter(DaemonEnds& daemon, pid_t supervisor) : daemon_(daemon), supervisor_(supervisor) {}

  DaemonEnds& daemon() { return daemon_; }

  // False: it has to be said again.
  bool say(ReportType type, uint32_t number = 0, const std::string& text = "");
  void acknowledge(uint32_t order, uint32_t workers);  // lost: the order comes again

  // States, each told when it changes. What could not be told has a time to wake for, and is told again.
  bool tell_ready(Nanoseconds now, WakeTime& wake);  // whether it has been
  void tell_trouble(const std::string& trouble, uint32_t workers, Nanoseconds now, WakeTime& wake);
  void tell_quiet(uint32_t busy, Nanoseconds now, WakeTime& wake);
  bool has_told_ready() const { return told_ready_; }
  bool has_told_quiet() const { return told_quiet_; }

  // For the log sink. In any other process than the supervisor (a worker, the shedder), and without a daemon, a line goes
  // to descriptor 2.
  void send_log(const LogLine& line);

  static constexpr Nanoseconds kSayAgain = 100 * kMillisecond;  // what did not fit into the pipe

 private:
  bool told(bool is_said, Nanoseconds now, WakeTime& wake) const {
    if (!is_said) wake.by(now + kSayAgain);
    return is_said;
  }

  DaemonEnds& daemon_;
  const pid_t supervisor_;
  uint32_t lost_lines_ = 0;
  bool told_ready_ = false, told_degraded_ = false, told_quiet_ = false;
};

}  // namespace preforkd
