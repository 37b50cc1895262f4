#include "daemon/service_cgroup.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/fd.h"
#include "daemon/session.h"

namespace preforkd {
namespace {

// The line of version 2: "0::/system.slice/preforkd.service". "" if there is none.
std::string group_of(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/cgroup");
  const std::string begin = "0::/";
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(begin)) return line.substr(begin.size());
  return "";
}

bool is_service() {
  const char* pid = std::getenv("SYSTEMD_EXEC_PID");
  return pid && std::atoi(pid) == getpid();
}

}  // namespace

std::vector<pid_t> left_by_predecessor() {
  std::vector<pid_t> all;
  const std::string group = is_service() ? group_of("self") : "";
  const auto children = own_children();
  if (group.empty() || !children) return all;
  std::ifstream file("/sys/fs/cgroup/" + group + "/cgroup.procs");
  for (pid_t pid; file >> pid;)
    if (pid != getpid() && std::find(children->begin(), children->end(), pid) == children->end())
      all.push_back(pid);
  return all;
}

void kill_left_by_predecessor(const std::vector<pid_t>& left) {
  const std::string group = group_of("self");
  for (const pid_t pid : left) {
    const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    // It may have ended, and its number be another's by now: what is asked after is what the pidfd means.
    if (pidfd.is_open() && group_of(std::to_string(pid)) == group)
      syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  }
}

}  // namespace preforkd
