#include "daemon/children.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/log.h"
#include "daemon/file_step.h"
#include "daemon/session.h"

namespace preforkd {
namespace {

constexpr int kReapedAtOnce = 200;
constexpr Nanoseconds kLookAgain = 100 * kMillisecond;
constexpr Nanoseconds kLookLasts = 3 * kMillisecond;

}  // namespace

// What is left has no other signal than the one that was read: there is another turn by itself.
void Children::reap() {
  reap_timer_ = {};
  int reaped = 0;
  for (; reaped < kReapedAtOnce; ++reaped) {
    // Looked at before it is reaped: whose it is says its session, for as long as it is there.
    siginfo_t next{};
    waitid(P_ALL, 0, &next, WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT);
    if (next.si_pid == 0) break;
    reap_one(next.si_pid);
  }
  if (reaped == kReapedAtOnce) reap_timer_ = loop_.after(0, [this] { reap(); });
  on_reaped_();
}

void Children::reap_one(pid_t child) {
  const pid_t session = getsid(child);
  int status = 0;
  const pid_t pid = waitpid(child, &status, WNOHANG | WUNTRACED | WCONTINUED);
  if (pid <= 0) return;
  const bool has_ended = WIFEXITED(status) || WIFSIGNALED(status);
  for (const Parent& parent : parents_) {
    const bool is_its = has_ended && parent.leaves_nothing && parent.owns(pid);
    if (!parent.child_changed(pid, status)) continue;
    if (is_its) end_left({pid, parent.leaves_nothing()});
    return;
  }
  if (!has_ended) return;
  // A worker whose supervisor died, or, as PID 1 of a container, a stranger.
  pools_.any([&](Pool& pool) { return pool.orphan_ended(pid, session, status); });
  log_debug("reaped " + std::to_string(pid));
}

std::optional<std::vector<pid_t>> Children::ours() const {
  auto children = own_children();
  if (!children) return std::nullopt;
  std::erase_if(*children, [this](pid_t pid) {
    return std::find(strangers_.begin(), strangers_.end(), pid) != strangers_.end() ||
           std::any_of(parents_.begin(), parents_.end(),
                       [pid](const Parent& p) { return p.goes_last && p.owns(pid); });
  });
  return children;
}

// The kernel ends a process and gives us its children in one step: who is alive after the list was read has none in it.
std::optional<std::vector<pid_t>> Children::unclaimed() const {
  auto left = ours();
  // The children of a supervisor that is dead, and not reaped yet, cannot be told from others'.
  if (!left || pools_.any([](const Pool& pool) { return pool.has_dead_supervisor(); }))
    return std::nullopt;
  std::erase_if(*left, [this](pid_t pid) {
    return is_late_file_step(pid) || std::any_of(parents_.begin(), parents_.end(),
                                                 [pid](const Parent& p) { return p.owns(pid); });
  });
  return left;
}

// By its session, which it may have left; and by its user, if that is not the daemon's. Whom it forks meanwhile is met in
// the next round, or the next time: until none is left.
void Children::end_left(Left left) {
  const Nanoseconds until = monotonic_now() + kLookLasts;
  do {
    auto found = unclaimed();
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
