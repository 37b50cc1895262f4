#include "daemon/file_step.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "base/backoff.h"
#include "base/close_all_but.h"
#include "base/error.h"
#include "base/fd.h"
#include "daemon/reap.h"

namespace preforkd {
namespace {

// Nearly always it is gone by then, and leaves nobody to the loop.
constexpr Nanoseconds kToEnd = 50 * kMillisecond;
constexpr Backoff kAskAgain = {1 * kSecond, 30 * kSecond};

// What the child writes in one piece: less than PIPE_BUF.
struct Outcome {
  bool has_thrown = false;
  int error = 0;  // of a SysError
  char text[1000] = {};
  FileId file;
};

// Less the kernel's reason, which SysError adds.
std::string without_reason(const SysError& e) {
  const std::string text = e.what(), reason = std::string(": ") + std::strerror(e.error());
  return text.ends_with(reason) ? text.substr(0, text.size() - reason.size()) : text;
}

void note(Outcome& outcome, const std::string& text, int error) {
  outcome.has_thrown = true;
  outcome.error = error;
  text.copy(outcome.text, sizeof outcome.text - 1);
}

Outcome outcome_of(const std::function<FileId()>& step) {
  Outcome outcome;
  try {
    outcome.file = step();
  } catch (const SysError& e) {
    note(outcome, without_reason(e), e.error());
  } catch (const std::exception& e) {
    note(outcome, e.what(), 0);
  }
  return outcome;
}

[[noreturn]] void be_the_child(pid_t daemon, int keeps, int report,
                               const std::function<FileId()>& step) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != daemon) _exit(1);
  close_all_but(0, {keeps, report});
  const Outcome outcome = outcome_of(step);
  while (write(report, &outcome, sizeof outcome) < 0 && errno == EINTR) {
  }
  _exit(0);
}

// Whether there is something to read, or the end.
bool comes(int fd, Nanoseconds deadline) {
  for (;;) {
    const Nanoseconds now = monotonic_now();
    const Nanoseconds left = deadline > now ? deadline - now : 0;
    pollfd p{fd, POLLIN, 0};
    const int n = poll(&p, 1, static_cast<int>((left + kMillisecond - 1) / kMillisecond));
    if (n > 0) return true;
    if (n == 0 || left == 0) return false;  // (what keeps poll from waiting is waited for)
  }
}

// --- folders that did not answer -----------------------------------------------------------------

// By a pidfd, too: when the loop has reaped it, its number may be another's.
struct Late {
  pid_t child = 0;
  UniqueFd pidfd;
  uint32_t times = 0;  // one after the other
  Nanoseconds ends_at = 0;

  bool lives() const {
    pollfd p{pidfd.get(), POLLIN, 0};
    return pidfd.is_open() && poll(&p, 1, 0) == 0;
  }
};

std::map<std::string, Late>& late_folders() {
  static std::map<std::string, Late> folders;
  return folders;
}

// Whether there is to be no other step yet.
bool is_held_off(const std::string& folder) {
  const auto found = late_folders().find(folder);
  return found != late_folders().end() &&
         (found->second.lives() || monotonic_now() < found->second.ends_at);
}

// `child` is not reaped yet, or -1.
void note_late(const std::string& folder, pid_t child) {
  Late& late = late_folders()[folder];
  late.child = child;
  late.pidfd.reset(child < 0 ? -1 : static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  late.ends_at = monotonic_now() + kAskAgain.after(++late.times);
}

}  // namespace

FileId in_file_system(const std::string& verb, const std::string& folder, int keeps,
                      const std::function<FileId()>& step) {
  const std::string no_answer = verb + ": its file system does not answer";
  if (is_held_off(folder)) throw NoAnswer(no_answer);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) throw SysError(verb + ": pipe", errno);
  const UniqueFd here(ends[0]);
  UniqueFd report(ends[1]);
  const Nanoseconds deadline = monotonic_now() + kFileStepLasts;
  const pid_t daemon = getpid(), child = fork();
  if (child < 0) throw SysError(verb + ": fork", errno);
  if (child == 0) be_the_child(daemon, keeps, report.get(), step);
  report.reset();
  Outcome outcome;
  const bool has_come = comes(here.get(), deadline);
  if (!has_come) kill(child, SIGKILL);
  ssize_t size = 0;
  if (has_come) do
      size = read(here.get(), &outcome, sizeof outcome);
    while (size < 0 && errno == EINTR);
  const bool is_whole = size == sizeof outcome;
  const bool is_reaped = is_reaped_by(child, monotonic_now() + kToEnd);
  if (!has_come) {
    note_late(folder, is_reaped ? -1 : child);
    throw NoAnswer(no_answer);
  }
  late_folders().erase(folder);
  if (!is_whole) throw std::runtime_error(verb + ": the process that was to do it has died");
  outcome.text[sizeof outcome.text - 1] = '\0';
  if (outcome.has_thrown && outcome.error) throw SysError(outcome.text, outcome.error);
  if (outcome.has_thrown) throw std::runtime_error(outcome.text);
  return outcome.file;
}

bool is_late_file_step(pid_t child) {
  const auto& all = late_folders();
  return std::any_of(all.begin(), all.end(), [child](const auto& late) {
    return late.second.child == child && late.second.lives();
  });
}

}  // namespace preforkd
