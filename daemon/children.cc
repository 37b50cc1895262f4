// The daemon's children: whose news each one's is, whom nobody has for his own, and what a control or log process that
// died has left behind. (What a supervisor has left: generation_orphans.cc.)
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/file_step.h"
#include "daemon/session.h"

namespace preforkd {
namespace {

constexpr int kReapedAtOnce = 200;
constexpr Nanoseconds kLookAgain = 100 * kMillisecond;
constexpr Nanoseconds kLookLasts = 3 * kMillisecond;

}  // namespace

// So many a turn. What is left has no other signal than the one that was read: there is another turn by itself.
void Daemon::reap() {
  reap_timer_ = {};
  int reaped = 0;
  for (; reaped < kReapedAtOnce; ++reaped) {
    // Looked at before it is reaped: whose it is says its session, for as long as it is there.
    siginfo_t next{};
    waitid(P_ALL, 0, &next, WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT);
    if (next.si_pid == 0) break;
    const pid_t session = getsid(next.si_pid);
    int status = 0;
    const pid_t pid = waitpid(next.si_pid, &status, WNOHANG | WUNTRACED | WCONTINUED);
    if (pid <= 0) continue;
    // Neither: a worker whose supervisor died, or, as PID 1 of a container, a stranger.
    const bool ended = WIFEXITED(status) || WIFSIGNALED(status);
    if (rehearsal_ && rehearsal_->child.pid == pid) {
      if (ended) on_rehearsed(status);
      continue;
    }
    if (reload_ && reload_->loading && ended && reload_->loading->child_ended(pid, status))
      continue;
    if (log_.child_changed(pid, status)) {
      if (ended) end_left({pid, log_user_});
      continue;
    }
    if (ended && is_of_a_link(pid)) end_left({pid, control_user_});
    bool ours = any_pool([&](Pool& pool) { return pool.child_changed(pid, status); }) ||
                std::any_of(links_.begin(), links_.end(),
                            [&](auto& link) { return link->child_changed(pid, status); }) ||
                std::any_of(old_links_.begin(), old_links_.end(),
                            [&](auto& link) { return link->child_changed(pid, status); });
    if (ours || !ended) continue;
    any_pool([&](Pool& pool) { return pool.orphan_ended(pid, session, status); });
    log_debug("reaped " + std::to_string(pid));
  }
  if (reaped == kReapedAtOnce) reap_timer_ = loop_.after(0, [this] { reap(); });
  std::erase_if(old_links_, [](auto& link) { return !link->is_running(); });
  close_when_over();
}

// Less those that this process had before it became preforkd (by an exec).
std::optional<std::vector<pid_t>> Daemon::children_of_ours() const {
  auto children = own_children();
  if (!children) return std::nullopt;
  std::erase_if(*children, [this](pid_t pid) {
    return log_.owns(pid) ||
           std::find(strangers_.begin(), strangers_.end(), pid) != strangers_.end();
  });
  return children;
}

bool Daemon::is_of_a_link(pid_t child) const {
  auto owns = [child](const auto& link) { return link->owns(child); };
  return std::any_of(links_.begin(), links_.end(), owns) ||
         std::any_of(old_links_.begin(), old_links_.end(), owns);
}

bool Daemon::any_pool(const std::function<bool(Pool&)>& is_it) const {
  auto it_is = [&is_it](const auto& pool) { return pool && is_it(*pool); };
  return std::any_of(pools_.begin(), pools_.end(), it_is) ||
         std::any_of(leaving_.begin(), leaving_.end(), it_is) ||
         (reload_ && std::any_of(reload_->added.begin(), reload_->added.end(), it_is));
}

bool Daemon::is_of_a_pool(pid_t child) const {
  return any_pool([&](const Pool& pool) { return pool.owns(child, getsid(child)); });
}

// The kernel ends a process and gives us its children in one step: who is alive after the list was read has none in it.
std::optional<std::vector<pid_t>> Daemon::unclaimed_children() {
  auto left = children_of_ours();
  if (!left || any_pool([](const Pool& pool) { return pool.has_dead_supervisor(); }))
    return std::nullopt;
  std::erase_if(*left, [this](pid_t pid) {
    return is_of_a_link(pid) || is_of_a_pool(pid) ||
           (reload_ && reload_->loading && reload_->loading->owns(pid)) ||
           (rehearsal_ && rehearsal_->child.pid == pid) || is_late_file_step(pid);
  });
  return left;
}

// By its session, which it may have left; and by its user, if that is not the daemon's. Whom it forks meanwhile is met in
// the next round, or the next time: until none is left.
void Daemon::end_left(LeftBy left) {
  const Nanoseconds until = monotonic_now() + kLookLasts;
  do {
    auto found = unclaimed_children();
    if (!found) continue;
    std::erase_if(*found, [&](pid_t pid) {
      return getsid(pid) != left.session && !(left.user.change && left.user.uid != 0 &&
                                              is_of_user(pid, left.user.uid).value_or(false));
    });
    if (found->empty()) return;
    if (!std::exchange(left.was_killed, true))
      log_error("process " + std::to_string(found->front()) + ", which " +
                std::to_string(left.session) + " has left behind, is killed");
    signal_trees(*found, SIGKILL, until);
  } while (monotonic_now() < until);
  loop_.run_after(kLookAgain, [this, left] { end_left(left); });
}

}  // namespace preforkd
