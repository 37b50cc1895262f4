#include "daemon/launch.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/clock.h"
#include "base/close_all_but.h"
#include "base/error.h"
#include "base/exec_strings.h"
#include "base/log.h"
#include "base/surroundings.h"
#include "base/undumpable.h"
#include "daemon/reap.h"
#include "daemon/signal_scope.h"
#include "daemon/trusted_path.h"
#include "systemd/notify.h"

namespace preforkd {
namespace {

constexpr size_t kMostOutput = 64 * 1024;
constexpr Nanoseconds kToEnd = 100 * kMillisecond, kKilledToEnd = 1 * kSecond;

struct Trouble {
  char step[512];
  char key[32];  // that is to blame; "": none is
  int error;
};

Trouble trouble(const std::string& step, int error, const std::string& key = "") {
  Trouble t{};
  step.copy(t.step, sizeof t.step - 1);
  key.copy(t.key, sizeof t.key - 1);
  t.error = error;
  return t;
}

std::vector<std::string> child_environment(const Environment& more) {
  std::vector<std::string> kept;
  for (const auto& [name, value] : more) kept.push_back(name + "=" + value);
  for (char** e = environ; *e; ++e) {
    std::string_view entry = *e, name = entry.substr(0, entry.find('='));
    if (std::find(std::begin(kSystemdVariables), std::end(kSystemdVariables), name) ==
            std::end(kSystemdVariables) &&
        !more.contains(std::string(name)))
      kept.emplace_back(entry);
  }
  return kept;
}

bool open_trusted_file(const Launch& what) {
  std::string reason;
  if (what.trusted_file.empty()) return true;
  const UniqueFd file = open_trusted(what.trusted_file, reason);
  for (size_t i = 0; file.is_open() && i < what.descriptors.size(); ++i)
    if (what.descriptors[i] == kTrustedFile && dup2(file.get(), 3 + static_cast<int>(i)) < 0)
      return false;
  return true;
}

volatile sig_atomic_t awaited = 0;  // the child of launch_and_wait(), until it is reaped

// After its change of user, which undoes it.
void end_with(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it was too late for that
}

using MayFail = std::optional<Trouble>;

// Its descriptors to 3, 4, 5 ..., and what it says to 1 and 2. Those in use move out of the way: a source may itself be 3, 4
// or 5. Not far away: the limit may be low.
MayFail take_places(const Launch& what, int& report, int& executable) {
  std::vector<int> sources = what.descriptors, kept = sources;
  kept.insert(kept.end(), {what.output, what.errors, report, executable});
  close_all_but(3, kept);
  const int first_other = 3 + static_cast<int>(sources.size());
  for (int& fd : sources)
    if (fd >= 0 && (fd = fcntl(fd, F_DUPFD_CLOEXEC, first_other)) < 0)
      return trouble("descriptors", errno);
  const int moved = fcntl(report, F_DUPFD_CLOEXEC, first_other);
  executable = fcntl(executable, F_DUPFD_CLOEXEC, first_other);
  if (moved < 0 || executable < 0) return trouble("descriptors", errno);
  report = moved;
  if (what.output >= 0 && dup2(what.output, 1) < 0) return trouble("descriptors", errno);
  if (what.errors >= 0 && dup2(what.errors, 2) < 0) return trouble("descriptors", errno);
  int null = open("/dev/null", O_RDONLY);
  if (null < 0 || dup2(null, 0) < 0) return trouble("descriptors", errno);
  for (size_t i = 0; i < sources.size(); ++i) {
    int target = 3 + static_cast<int>(i);
    if (sources[i] < 0)
      close(target);
    else if (dup2(sources[i], target) < 0)
      return trouble("descriptors", errno);
  }
  // From here on it may be held up, by a file system or its user, and is not to hold what others wait for the end of.
  close_all_but(first_other, {report, executable});
  if (!open_trusted_file(what)) return trouble("descriptors", errno);
  return std::nullopt;
}

// Higher limits and a higher priority take root; whether the folder may be entered is the user's matter.
MayFail live_as(const Launch& what, pid_t parent) {
  const ProcessSettings& process = what.process;
  if (auto no = make_room_for(process.limits))
    return trouble(no->what, no->error, "rlimits." + no->name);
  if (process.nice && setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + process.nice) < 0)
    return trouble("change nice by " + std::to_string(process.nice), errno, "nice");
  if (auto no = make_room_for(process.oom_score_adjust))
    return trouble(no->what, no->error, no->name);
  if (what.keeps_signals_within)
    if (const int error = keep_signals_within()) return trouble("keep signals within", error);
  // (The kernel does so at a change of user unless fs.suid_dumpable says otherwise.)
  become_undumpable();
  if (what.user.change) {
    const auto& groups = what.user.groups;
    if (setgroups(groups.size(), groups.data()) < 0) return trouble("groups", errno);
    if (setresgid(what.user.gid, what.user.gid, what.user.gid) < 0) return trouble("group", errno);
    if (setresuid(what.user.uid, what.user.uid, what.user.uid) < 0) return trouble("user", errno);
  }
  if (what.ends_with_us) end_with(parent);
  const std::string& folder = process.working_directory;
  if (!folder.empty() && chdir(folder.c_str()) < 0)
    return trouble("change to " + folder, errno, "working_directory");
  return std::nullopt;
}

// In the child. Returns only on failure. `report` moves out of the way with the other descriptors.
Trouble become(const Launch& what, pid_t parent, int executable, int& report, char* const* argv,
               char* const* environment) {
  if (setsid() < 0) return trouble("session", errno);
  for (int s = 1; s < NSIG; ++s) signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (const auto failed = take_places(what, report, executable)) return *failed;
  if (const auto failed = live_as(what, parent)) return *failed;
  hand_on_surroundings();
  syscall(SYS_execveat, executable, "", argv, environment, AT_EMPTY_PATH);
  // Of a script, too, which its interpreter could not open by a descriptor that is closed then.
  return trouble(errno == ENOENT ? "exec (a script, or its loader is missing)" : "exec", errno);
}

}  // namespace

std::string LaunchFailure::text() const { return step + ": " + std::strerror(error); }

void Child::signal(int number) const {
  if (pidfd.is_open() && syscall(SYS_pidfd_send_signal, pidfd.get(), number, nullptr, 0) < 0 &&
      errno != ESRCH)
    log_warning("signal process " + std::to_string(pid) + ": " + std::strerror(errno));
}

bool Child::has_executed() const {
  pollfd end{failed_exec.get(), POLLIN, 0};
  return !failed_exec.is_open() || (poll(&end, 1, 0) == 1 && !(end.revents & POLLIN));
}

std::optional<LaunchFailure> Child::failure() {
  Trouble t{};
  if (!failed_exec.is_open() || read(failed_exec.get(), &t, sizeof t) != sizeof t)
    return std::nullopt;
  failed_exec.reset();
  t.step[sizeof t.step - 1] = t.key[sizeof t.key - 1] = '\0';
  return LaunchFailure{t.key, *t.key ? t.step : "start " + executable + ": " + t.step, t.error};
}

std::vector<std::string> readable_executables(const std::vector<std::string>& files) {
  std::vector<std::string> readable;
  struct stat s {};
  for (const std::string& file : files)
    if (geteuid() == 0 && stat(file.c_str(), &s) == 0 && (s.st_mode & (S_IRGRP | S_IROTH)))
      readable.push_back(file);
  return readable;
}

Child launch(const Launch& what) {
  const std::string verb = "start " + what.executable;
  UniqueFd executable(what.image < 0 ? open(what.executable.c_str(), O_PATH | O_CLOEXEC)
                                     : fcntl(what.image, F_DUPFD_CLOEXEC, 3));
  if (!executable.is_open()) throw SysError(verb, errno);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) throw SysError(verb + ": pipe", errno);
  UniqueFd to_parent(ends[1]);
  Child child;
  child.failed_exec.reset(ends[0]);
  child.executable = what.executable;
  auto environment = child_environment(what.process.environment);
  auto argv = pointers_to(what.argv), envp = pointers_to(environment);
  // So that there is a descriptor for the pidfd: without one, nothing is forked.
  UniqueFd place(fcntl(to_parent.get(), F_DUPFD_CLOEXEC, 3));
  if (!place.is_open()) throw SysError(verb + ": pidfd_open", errno);

  const pid_t self = getpid();
  child.pid = fork();
  if (child.pid < 0) throw SysError(verb + ": fork", errno);
  if (child.pid == 0) {
    int report = to_parent.get();
    Trouble t = become(what, self, executable.get(), report, argv.data(), envp.data());
    [[maybe_unused]] ssize_t ignored = write(report, &t, sizeof t);
    _exit(127);
  }
  place.reset();
  child.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, child.pid, 0)));
  if (!child.pidfd.is_open()) {
    int error = errno;
    kill(child.pid, SIGKILL);
    // One that is on its way into a folder that hangs is not waited for: it is reaped with all others.
    is_reaped_by(child.pid, monotonic_now() + kToEnd);
    throw SysError(verb + ": pidfd_open", error);
  }
  return child;
}

Child existing_child(pid_t pid) {
  Child child;
  child.pid = pid;
  // Twice: there may be memory for it now. An upgrade that has come so far goes on without.
  for (int tries = 2; tries > 0 && !child.pidfd.is_open(); --tries)
    child.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!child.pidfd.is_open() && errno != ESRCH)
    log_error("pidfd_open " + std::to_string(pid) + ": " + std::strerror(errno) +
              ": this process can be sent no signals");
  return child;
}

namespace {

// What a child writes to one of its descriptors.
struct Output {
  UniqueFd from_child;
  std::string text;

  UniqueFd open() {  // the child's end
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) throw SysError("pipe", errno);
    from_child.reset(ends[0]);
    return UniqueFd(ends[1]);
  }
  void read_some() {
    char buffer[1024];
    ssize_t n = read(from_child.get(), buffer, sizeof buffer);
    if (n <= 0) return from_child.reset();
    if (text.size() < kMostOutput) text.append(buffer, static_cast<size_t>(n));
  }
};

}  // namespace

void end_awaited() {
  if (const pid_t child = awaited; child > 0) kill(child, SIGKILL);
}

Finished launch_and_wait(Launch what, int seconds) {
  Output output, errors;
  UniqueFd output_end = output.open(), errors_end = errors.open();
  what.output = output_end.get();
  what.errors = errors_end.get();
  what.ends_with_us = true;
  Child child = launch(what);
  awaited = child.pid;
  output_end.reset();
  errors_end.reset();

  const Nanoseconds deadline = monotonic_now() + static_cast<uint64_t>(seconds) * kSecond;
  // Until the process has ended, whatever it does with its output.
  for (;;) {
    Nanoseconds now = monotonic_now();
    if (now >= deadline) {
      child.signal(SIGKILL);
      break;
    }
    pollfd p[3] = {{output.from_child.get(), POLLIN, 0},
                   {errors.from_child.get(), POLLIN, 0},
                   {child.pidfd.get(), POLLIN, 0}};
    if (poll(p, 3, static_cast<int>((deadline - now) / kMillisecond) + 1) <= 0) continue;
    if (p[0].revents) output.read_some();
    if (p[1].revents) errors.read_some();
    if (!p[0].revents && !p[1].revents) break;
  }
  awaited = 0;
  Finished finished;
  finished.status =
      SIGKILL;  // of one that hangs within the kernel even so: whoever adopts it will reap it
  is_reaped_by(child.pid, monotonic_now() + kKilledToEnd, &finished.status);
  if (auto failure = child.failure()) {
    if (failure->key.empty()) throw SysError(failure->step, failure->error);
    throw SettingError(failure->key, failure->step, failure->error);
  }
  finished.output = std::move(output.text);
  finished.errors = std::move(errors.text);
  return finished;
}

}  // namespace preforkd
