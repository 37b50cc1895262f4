// The daemon's end: pools first, then control, then what is left of anybody's, and the log process with the last line.
#include <signal.h>

#include <algorithm>
#include <ctime>
#include <string>

#include "base/log.h"
#include "base/reap.h"
#include "daemon/daemon.h"
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

void Daemon::finish() {
  if (phase_ != Phase::kRunning) return;
  phase_ = Phase::kFinishing;
  log_info("stopping: connections in service are finished first");
  Nanoseconds longest = 0;
  for (const auto* pools : {&pools_, &leaving_})
    for (const auto& pool : *pools) longest = std::max(longest, pool->settings().drain_timeout);
  say_stopping(longest);
  if (reload_) roll_back("preforkd is stopping");
  finish_settling();
  tell_daemon_info();
  for (auto& pool : pools_) pool->finish();
  finish_timer_.set_after(longest + kFinishGrace, [this] { stop_now(); });
  predecessor_until_ = monotonic_now() + longest;
  close_when_over();
}

void Daemon::stop_now() {
  if (phase_ == Phase::kClosing) return;
  if (phase_ == Phase::kRunning) log_info("stopping at once");
  phase_ = Phase::kFinishing;
  say_stopping(0);
  if (reload_) roll_back("preforkd is stopping");
  tell_daemon_info();
  for (auto& pool : pools_) pool->stop_now();
  for (auto& pool : leaving_) pool->stop_now();
  predecessor_until_ = 0;
  finish_timer_.drop();
  end_timer_ = loop_.after(kStopGrace, [this] {
    for (auto& pool : pools_) pool->kill_all();
    for (auto& pool : leaving_) pool->kill_all();
    end_timer_ = loop_.after(kStopGrace, [this] { leave_what_does_not_end(); });
  });
  close_when_over();
}

void Daemon::close_when_over() {
  if (std::any_of(leaving_.begin(), leaving_.end(),
                  [this](auto& pool) { return may_forget(*pool); }))
    leavers_timer_ = loop_.after(0, [this] {  // one of them may be telling us just now
      forget_leavers();
    });
  if (phase_ == Phase::kFinishing && leaving_.empty() &&
      std::all_of(pools_.begin(), pools_.end(), [](auto& pool) { return pool->is_over(); }) &&
      !waits_for_predecessor())
    close();
  if (phase_ == Phase::kClosing && !log_.is_closing() &&
      std::none_of(links_.begin(), links_.end(), [](auto& link) { return link->is_running(); })) {
    end_the_rest();
    close_log();
  }
  if (log_.is_closing() && !log_.is_running()) loop_.stop();
}

// A daemon that died before us has left workers who finish what they serve: in their own time, as at any stop. What
// had to be stopped has no time.
bool Daemon::waits_for_predecessor() {
  if (monotonic_now() >= predecessor_until_ || left_by_predecessor().empty()) return false;
  predecessor_timer_ = loop_.after(kLookAtPredecessor, [this] { close_when_over(); });
  return true;
}

void Daemon::close() {
  phase_ = Phase::kClosing;
  finish_timer_.drop();
  for (auto& link : links_) link->close();
  end_timer_ = loop_.after(kControlGrace, [this] {
    for (auto& link : links_) link->kill("was told to end 1 s ago and has not");
    end_timer_ = loop_.after(kControlGrace, [this] { leave_what_does_not_end(); });
  });
}

// The last to go, with the last line.
void Daemon::close_log() {
  log_info("stopped");
  log_.close();
  end_timer_ = loop_.after(log_.is_running() ? kLogGrace : 0, [this] { loop_.stop(); });
}

// A process that hangs within the kernel dies when the kernel lets it, and not before. Named are those that were killed
// before this: pools' at first, control's in the end.
void Daemon::leave_what_does_not_end() {
  for (pid_t pid : children_of_ours().value_or(std::vector<pid_t>{}))
    if (phase_ == Phase::kClosing ? is_of_a_link(pid) : is_of_a_pool(pid))
      log_error("process " + std::to_string(pid) +
                " was killed and does not end: it is left behind");
  phase_ == Phase::kClosing ? close_log() : close();
}

void Daemon::forget_leavers() {
  std::erase_if(leaving_, [this](auto& pool) { return may_forget(*pool); });
  tell_daemon_info();
  close_when_over();
}

bool Daemon::may_forget(const Pool& leaver) const {
  const bool returns =
      reload_ && std::count(reload_->returning.begin(), reload_->returning.end(), &leaver) > 0;
  return leaver.is_over() && !returns;
}

// Children that a program left in a session of its own, for instance: nothing of ours outlives us.
void Daemon::end_the_rest() {
  const Nanoseconds deadline = monotonic_now() + kKillGrace;
  for (int round = 0; round < kMostRounds; ++round) {
    const auto known = children_of_ours();
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
