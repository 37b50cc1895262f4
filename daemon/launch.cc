#include "daemon/launch.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/clock.h"
#include "base/error.h"
#include "base/exec_strings.h"
#include "systemd/notify.h"

namespace preforkd {
namespace {

constexpr size_t kMostOutput = 64 * 1024;

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

void close_on_exec_from(int first) {
  if (syscall(SYS_close_range, first, ~0u, CLOSE_RANGE_CLOEXEC) == 0) return;
  for (int fd = first; fd < static_cast<int>(sysconf(_SC_OPEN_MAX)); ++fd)
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// In the child. Returns only on failure. `report` moves out of the way with the other descriptors.
Trouble become(const Launch& what, const std::vector<gid_t>& groups, int executable, int& report,
               char* const* argv, char* const* environment) {
  if (setsid() < 0) return trouble("session", errno);
  for (int s = 1; s < NSIG; ++s) signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);

  // Out of the way first: a source may itself be 3, 4 or 5. Not far away: the limit may be low.
  std::vector<int> sources = what.descriptors;
  const int first_other = 3 + static_cast<int>(sources.size());
  for (int& fd : sources)
    if (fd >= 0 && (fd = fcntl(fd, F_DUPFD_CLOEXEC, first_other)) < 0)
      return trouble("descriptors", errno);
  int moved = fcntl(report, F_DUPFD_CLOEXEC, first_other);
  executable = fcntl(executable, F_DUPFD_CLOEXEC, first_other);
  if (moved < 0 || executable < 0) return trouble("descriptors", errno);
  report = moved;
  if (what.output >= 0 && dup2(what.output, 1) < 0) return trouble("descriptors", errno);
  int null = open("/dev/null", O_RDONLY);
  if (null < 0 || dup2(null, 0) < 0) return trouble("descriptors", errno);
  for (size_t i = 0; i < sources.size(); ++i) {
    int target = 3 + static_cast<int>(i);
    if (sources[i] < 0)
      close(target);
    else if (dup2(sources[i], target) < 0)
      return trouble("descriptors", errno);
  }
  // What is ours is CLOEXEC already, but a parent may have left us something.
  close_on_exec_from(first_other);

  // Higher limits and a higher priority take root; whether the folder may be entered is the user's matter.
  const ProcessSettings& process = what.process;
  if (auto no = make_room_for(process.limits))
    return trouble(no->what, no->error, "rlimits." + no->name);
  if (process.nice && setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + process.nice) < 0)
    return trouble("change nice by " + std::to_string(process.nice), errno, "nice");
  if (what.user.change) {
    if (setgroups(groups.size(), groups.data()) < 0) return trouble("groups", errno);
    if (setresgid(what.user.gid, what.user.gid, what.user.gid) < 0) return trouble("group", errno);
    if (setresuid(what.user.uid, what.user.uid, what.user.uid) < 0) return trouble("user", errno);
  }
  const std::string& folder = process.working_directory;
  if (!folder.empty() && chdir(folder.c_str()) < 0)
    return trouble("change to " + folder, errno, "working_directory");
  syscall(SYS_execveat, executable, "", argv, environment, AT_EMPTY_PATH);
  // Of a script, too, which its interpreter could not open by a descriptor that is closed then.
  return trouble(errno == ENOENT ? "exec (a script, or its loader is missing)" : "exec", errno);
}

// The user's supplementary groups, with the primary group that the settings name.
std::vector<gid_t> groups_of(const EffectiveUser& user) {
  std::vector<gid_t> groups(64);
  auto count = static_cast<int>(groups.size());
  while (getgrouplist(user.name.c_str(), user.gid, groups.data(), &count) < 0)
    groups.resize(static_cast<size_t>(count));
  groups.resize(static_cast<size_t>(count));
  return groups;
}

}  // namespace

void Child::signal(int number) const {
  if (pidfd.is_open()) syscall(SYS_pidfd_send_signal, pidfd.get(), number, nullptr, 0);
}

Child launch(const Launch& what) {
  const std::string verb = "start " + what.executable;
  UniqueFd executable(what.image < 0 ? open(what.executable.c_str(), O_PATH | O_CLOEXEC)
                                     : fcntl(what.image, F_DUPFD_CLOEXEC, 3));
  if (!executable.is_open()) throw SysError(verb, errno);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) throw SysError(verb + ": pipe", errno);
  UniqueFd from_child(ends[0]), to_parent(ends[1]);
  auto groups = what.user.change ? groups_of(what.user) : std::vector<gid_t>{};
  auto environment = child_environment(what.process.environment);
  auto argv = pointers_to(what.argv), envp = pointers_to(environment);

  Child child;
  child.pid = fork();
  if (child.pid < 0) throw SysError(verb + ": fork", errno);
  if (child.pid == 0) {
    int report = to_parent.get();
    Trouble t = become(what, groups, executable.get(), report, argv.data(), envp.data());
    [[maybe_unused]] ssize_t ignored = write(report, &t, sizeof t);
    _exit(127);
  }
  to_parent.reset();
  Trouble t{};
  ssize_t n;
  do n = read(from_child.get(), &t, sizeof t);
  while (n < 0 && errno == EINTR);
  if (n == sizeof t) {
    waitpid(child.pid, nullptr, 0);
    if (*t.key) throw SettingError(t.key, t.step, t.error);
    throw SysError(verb + ": " + t.step, t.error);
  }
  child.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, child.pid, 0)));
  if (!child.pidfd.is_open()) {
    int error = errno;
    kill(child.pid, SIGKILL);
    waitpid(child.pid, nullptr, 0);
    throw SysError(verb + ": pidfd_open", error);
  }
  return child;
}

Child existing_child(pid_t pid) {
  return {pid, UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)))};
}

Finished launch_and_wait(Launch what, int seconds) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) throw SysError("pipe", errno);
  UniqueFd from_child(ends[0]), output(ends[1]);
  what.output = output.get();
  Child child = launch(what);
  output.reset();

  Finished finished;
  const Nanoseconds deadline = monotonic_now() + static_cast<uint64_t>(seconds) * kSecond;
  char buffer[1024];
  // Until the process has ended, whatever it does with its output.
  for (bool open = true;;) {
    Nanoseconds now = monotonic_now();
    if (now >= deadline) {
      child.signal(SIGKILL);
      break;
    }
    pollfd p[2] = {{child.pidfd.get(), POLLIN, 0}, {open ? from_child.get() : -1, POLLIN, 0}};
    if (poll(p, 2, static_cast<int>((deadline - now) / kMillisecond) + 1) <= 0) continue;
    if (p[1].revents) {
      ssize_t n = read(from_child.get(), buffer, sizeof buffer);
      open = n > 0;
      if (open && finished.output.size() < kMostOutput)
        finished.output.append(buffer, static_cast<size_t>(n));
    } else if (p[0].revents) {
      break;
    }
  }
  while (waitpid(child.pid, &finished.status, 0) < 0 && errno == EINTR) {
  }
  return finished;
}

}  // namespace preforkd
