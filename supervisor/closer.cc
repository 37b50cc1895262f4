#include "supervisor/closer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <utility>

#include "base/close_all_but.h"
#include "base/error.h"
#include "base/process_title.h"
#include "supervisor/lingering.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kForkAgain = 1 * kSecond;
constexpr Nanoseconds kUntilDead = 1 * kSecond;
constexpr Nanoseconds kAskAgain = 1 * kSecond;
constexpr Nanoseconds kTellAgain = 5 * kMillisecond;
constexpr int kMostClosed = 4096;  // at once: workers may send as fast as they are read

}  // namespace

Closer::Closer(const WorkerPlan& plan, ClosingPairs& pairs, std::function<void()> before_work)
    : plan_(plan),
      first_(std::move(pairs.first.closers)),
      second_(std::move(pairs.second.closers)),
      before_work_(std::move(before_work)) {
  if (first_.is_open()) fcntl(first_.get(), F_SETOWN, getpid());
}

Nanoseconds Closer::look(Nanoseconds now) {
  tell_of_ends();
  const Nanoseconds next = untold_.empty() ? kNever : now + kTellAgain;
  if (pid_ || !first_.is_open()) return next;
  tell_of_arrivals(true);
  if (!is_wanted()) return tells_ ? next : std::min(next, now + kForkAgain);
  if (now < fork_again_at_) return std::min(next, fork_again_at_);
  fork_again_at_ = now + kForkAgain;
  tell_of_arrivals(false);
  const AllSignalsBlocked over_the_fork;
  const pid_t pid = ::fork();
  if (pid == 0) work();
  if (pid < 0) {
    close_what_waits();
    return std::min(next, fork_again_at_);  // nobody tells of what comes until the next look
  }
  pid_ = pid;
  return next;
}

bool Closer::program_ended(pid_t pid, bool in_question) {
  const Nanoseconds now = monotonic_now();
  if (in_question && untold_.empty() && now >= ask_again_at_ && (pid_ || now >= fork_again_at_)) {
    const auto ended = plan_.closing.client_ended_before(pid, [&] { look(now); });
    if (ended) return *ended;
    ask_again_at_ = now + kAskAgain;
  }
  if (!untold_.empty() || !plan_.closing.program_ended(pid)) untold_.push_back(pid);
  return false;
}

void Closer::tell_of_ends() {
  size_t told = 0;
  while (told < untold_.size() && plan_.closing.program_ended(untold_[told])) ++told;
  untold_.erase(untold_.begin(), untold_.begin() + static_cast<ptrdiff_t>(told));
}

bool Closer::is_wanted() const {
  pollfd waiting{first_.get(), POLLIN, 0};
  return poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLIN);
}

void Closer::tell_of_arrivals(bool on) {
  if (tells_ == on) return;
  const int flags = fcntl(first_.get(), F_GETFL);
  if (fcntl(first_.get(), F_SETFL, on ? flags | O_ASYNC : flags & ~O_ASYNC) == 0) tells_ = on;
}

// There are no processes to be had: nobody must wait for one.
void Closer::close_what_waits() const {
  for (int end : ends())
    for (int i = 0; i < kMostClosed; ++i) {
      const Received received = Received::from(end);
      if (received.kind != Received::kMessage) break;
      if (received.connection.is_open()) make_close_not_wait(received.connection.get());
    }
}

bool Closer::has_left(Nanoseconds now, Nanoseconds until) {
  if (pid_ == 0) return true;
  if (!told_to_leave_) told_to_leave_ = kill(pid_, SIGTERM) == 0;
  if (now >= until) stop();
  return killed_at_ != kNever && now >= killed_at_ + kUntilDead;  // the kernel holds it
}

void Closer::stop() {
  if (pid_ == 0 || killed_at_ != kNever) return;
  kill(pid_, SIGKILL);  // reaped with the others
  killed_at_ = monotonic_now();
}

bool Closer::was(pid_t changed, int status) {
  if (!is(changed)) return false;
  if (WIFSTOPPED(status)) stop();
  if (!WIFEXITED(status) && !WIFSIGNALED(status)) return true;
  pid_ = 0;
  told_to_leave_ = false;
  killed_at_ = kNever;
  return true;
}

void Closer::work() {
  try {
    before_work_();
    for (int number = 1; number < NSIG; ++number)
      if (!is_ignored(number)) set_to_default(number);
    set_process_title("preforkd: closer " + plan_.settings.name, "preforkd-close");
    for (int fd : {1, 2}) dup2(0, fd);  // /dev/null
    close_all_but(3, {first_.get(), second_.get()});
    Lingering(first_.get(), second_.get(), plan_.supervisor).run();
    _exit(0);
  } catch (const std::exception&) {  // of memory; whoever comes next goes on
  }
  _exit(static_cast<int>(ExitCode::kInternal));
}

}  // namespace preforkd
