#include "daemon/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"

namespace preforkd {
namespace {

// Nothing, with errno: it cannot be read.
std::optional<ProcessStatus> status_of(pid_t pid) {
  errno = 0;
  const std::string path = "/proc/" + std::to_string(pid) + "/status";
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.is_open()) return std::nullopt;
  char text[4096];  // what is looked for stands at the beginning
  const ssize_t size = read(fd.get(), text, sizeof text);
  return size < 0 ? std::nullopt
                  : parse_process_status(std::string(text, static_cast<size_t>(size)));
}

bool has_parent(pid_t pid, pid_t one, pid_t other) {
  const auto status = status_of(pid);
  return status && (status->parent == one || status->parent == other);
}

std::optional<std::vector<pid_t>> children_from_proc() {
  std::unique_ptr<DIR, int (*)(DIR*)> proc(opendir("/proc"), closedir);
  if (!proc) return std::nullopt;
  std::vector<pid_t> children;
  errno = 0;
  while (dirent* entry = readdir(proc.get())) {
    const pid_t pid = std::atoi(entry->d_name);
    if (pid > 0 && has_parent(pid, getpid(), getpid())) children.push_back(pid);
    errno = 0;
  }
  return errno ? std::nullopt : std::optional(children);
}

// Of all its threads, of which it may have thousands.
std::vector<pid_t> children_of(pid_t pid, Nanoseconds until) {
  std::vector<pid_t> children;
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(tasks.c_str()), closedir);
  if (!folder) return children;
  while (dirent* entry = readdir(folder.get())) {
    if (monotonic_now() >= until) break;
    std::ifstream file(tasks + "/" + entry->d_name + "/children");
    for (pid_t child; file >> child;) children.push_back(child);
  }
  return children;
}

}  // namespace

std::optional<ProcessStatus> parse_process_status(const std::string& text) {
  ProcessStatus status;
  bool has_parent = false, has_uids = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("PPid:")) {
      has_parent = !!(std::istringstream(line.substr(5)) >> status.parent);
    } else if (line.starts_with("Uid:")) {
      auto& [real, effective, saved] = status.uids;
      has_uids = !!(std::istringstream(line.substr(4)) >> real >> effective >> saved);
    }
  }
  if (!has_parent || !has_uids) return std::nullopt;
  return status;
}

std::optional<std::vector<pid_t>> own_children() {
  std::ifstream file("/proc/self/task/" + std::to_string(getpid()) + "/children");
  if (!file) return children_from_proc();
  std::vector<pid_t> children;
  for (pid_t pid; file >> pid;) children.push_back(pid);
  // A list that breaks off is not taken for a whole one: who is not in it would be forgotten.
  return file.bad() ? std::nullopt : std::optional(children);
}

std::optional<std::vector<pid_t>> children_in_session(pid_t session) {
  auto children = own_children();
  if (children) std::erase_if(*children, [&](pid_t pid) { return getsid(pid) != session; });
  return children;
}

void signal_trees(const std::vector<pid_t>& roots, int number, Nanoseconds until) {
  struct Met {
    pid_t pid, parent;
  };
  std::vector<Met> to_visit;
  auto visit_children = [&](pid_t pid) {
    if (monotonic_now() >= until) return;
    for (pid_t child : children_of(pid, until)) to_visit.push_back({child, pid});
  };
  for (pid_t root : roots) {
    visit_children(root);
    kill(root, number);
  }
  for (size_t i = 0; i < to_visit.size() && monotonic_now() < until; ++i) {
    const auto [pid, parent] = to_visit[i];
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd.is_open() || !has_parent(pid, parent, getpid())) continue;
    visit_children(pid);
    syscall(SYS_pidfd_send_signal, pidfd.get(), number, nullptr, 0);
  }
}

std::optional<bool> is_of_user(pid_t child, uid_t uid) {
  if (const auto status = status_of(child))
    return std::count(status->uids.begin(), status->uids.end(), uid) > 0;
  if (lacks_room(errno)) return std::nullopt;
  return true;
}

void signal_session(pid_t session, int number) {
  if (auto members = children_in_session(session))
    for (pid_t pid : *members) kill(pid, number);
}

}  // namespace preforkd
