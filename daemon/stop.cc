#include "daemon/stop.h"

#include <signal.h>

#include <algorithm>
#include <string>

#include "base/log.h"
#include "daemon/reap.h"
#include "daemon/service_cgroup.h"
#include "daemon/session.h"

namespace preforkd {
namespace {

// Beyond timeouts.drain: for TERM, KILL and the last messages.
constexpr Nanoseconds kFinishGrace = 5 * kSecond;
constexpr Nanoseconds kStopGrace = 3 * kSecond;
constexpr Nanoseconds kControlGrace = 1 * kSecond;
constexpr Nanoseconds kLogGrace = 2 * kSecond;  // it has one until it is killed
constexpr Nanoseconds kKillGrace = 2 * kSecond;
constexpr Nanoseconds kRoundLasts = 500 * kMillisecond;
constexpr Nanoseconds kLookAtPredecessor = 100 * kMillisecond;
constexpr int kMostRounds = 100;  // of ending children of children

}  // namespace

Stop::Stop(EventLoop& loop, PoolSet& pools, ControlProcesses& control, LogLink& log,
           Children& children, ServiceStatus& service, Calls calls)
    : loop_(loop),
      pools_(pools),
      control_(control),
      log_(log),
      children_(children),
      service_(service),
      calls_(std::move(calls)) {}

void Stop::note_started() {
  if (phase_ == Phase::kStarting) phase_ = Phase::kRunning;
}

void Stop::end_failed_start() {
  if (phase_ != Phase::kStarting) return;
  end_the_rest();
  log_.close_and_wait();
}

void Stop::finish() {
  if (!is_running()) return;
  log_info("stopping: connections in service are finished first");
  const Nanoseconds longest = pools_.longest_drain();
  begin_end(longest);
  for (const auto& pool : pools_.configured()) pool->finish();
  finish_timer_.set_after(longest + kFinishGrace, [this] { stop_now(); });
  predecessor_until_ = monotonic_now() + longest;
  go_on();
}

void Stop::stop_now() {
  if (phase_ == Phase::kClosing) return;
  if (is_running()) log_info("stopping at once");
  begin_end(0);
  for (Pool* pool : pools_.all()) pool->stop_now();
  predecessor_until_ = 0;
  finish_timer_.drop();
  end_timer_ = loop_.after(kStopGrace, [this] {
    for (Pool* pool : pools_.all()) pool->kill_all();
    end_timer_ = loop_.after(kStopGrace, [this] { leave_what_does_not_end(); });
  });
  go_on();
}

void Stop::begin_end(Nanoseconds patience) {
  phase_ = Phase::kFinishing;
  service_.say_stopping(patience);
  calls_.end_reload();
  control_.tell_daemon();
}

void Stop::go_on() {
  const auto& leaving = pools_.leaving();
  if (std::any_of(leaving.begin(), leaving.end(),
                  [this](const auto& pool) { return calls_.may_be_forgotten(*pool); }))
    leavers_timer_ = loop_.after(0, [this] {  // one of them may be telling us just now
      forget_leavers();
    });
  if (phase_ == Phase::kFinishing && pools_.is_over() && !waits_for_predecessor()) close();
  if (phase_ == Phase::kClosing && !log_.is_closing() && !control_.any_is_running()) {
    end_the_rest();
    close_log();
  }
  if (log_.is_closing() && !log_.is_running()) loop_.stop();
}

// A daemon that died before us has left workers who finish what they serve: in their own time, as at any stop. What
// had to be stopped has no time.
bool Stop::waits_for_predecessor() {
  if (monotonic_now() >= predecessor_until_ || left_by_predecessor().empty()) return false;
  predecessor_timer_ = loop_.after(kLookAtPredecessor, [this] { go_on(); });
  return true;
}

void Stop::forget_leavers() {
  pools_.forget(calls_.may_be_forgotten);
  control_.tell_daemon();
  go_on();
}

void Stop::close() {
  phase_ = Phase::kClosing;
  finish_timer_.drop();
  control_.close();
  end_timer_ = loop_.after(kControlGrace, [this] {
    control_.kill("was told to end 1 s ago and has not");
    end_timer_ = loop_.after(kControlGrace, [this] { leave_what_does_not_end(); });
  });
}

// The last to go, with the last line.
void Stop::close_log() {
  log_info("stopped");
  log_.close();
  end_timer_ = loop_.after(log_.is_running() ? kLogGrace : 0, [this] { loop_.stop(); });
}

// A process that hangs within the kernel dies when the kernel lets it, and not before. Named are those that were killed
// before this: pools' at first, control's in the end.
void Stop::leave_what_does_not_end() {
  const bool is_closing = phase_ == Phase::kClosing;
  for (pid_t pid : children_.ours().value_or(std::vector<pid_t>{})) {
    const bool was_killed =
        is_closing ? control_.owns(pid)
                   : pools_.any([pid](const Pool& pool) { return pool.owns(pid, getsid(pid)); });
    if (was_killed)
      log_error("process " + std::to_string(pid) +
                " was killed and does not end: it is left behind");
  }
  is_closing ? close_log() : close();
}

// Children that a program left in a session of its own, for instance: nothing of ours outlives us.
void Stop::end_the_rest() {
  const Nanoseconds deadline = monotonic_now() + kKillGrace;
  for (int round = 0; round < kMostRounds; ++round) {
    const auto known = children_.ours();
    const std::vector<pid_t> left = known.value_or(std::vector<pid_t>{});
    const std::vector<pid_t> of_predecessor = left_by_predecessor();
    if (known && left.empty() && of_predecessor.empty()) return;
    kill_left_by_predecessor(of_predecessor);
    signal_trees(left, SIGKILL, deadline);
    // Their children are adopted: the next round's. One that hangs in the kernel holds no other up.
    const Nanoseconds round_ends = std::min(deadline, monotonic_now() + kRoundLasts);
    for (pid_t pid : left) is_reaped_by(pid, round_ends);
    if (monotonic_now() >= deadline) return;
    if (!known || !of_predecessor.empty()) sleep_for(kMillisecond);  // whom others reap
  }
}

}  // namespace preforkd
