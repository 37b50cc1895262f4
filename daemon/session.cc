#include "daemon/session.h"

#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

namespace preforkd {
namespace {

pid_t parent_of(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/stat");
  std::string line;
  std::getline(file, line);
  // "pid (comm) state ppid": comm may hold anything, a parenthesis too.
  size_t end = line.rfind(')');
  return end == line.npos || line.size() < end + 4 ? 0 : std::atoi(line.c_str() + end + 4);
}

std::optional<std::vector<pid_t>> children_from_proc() {
  std::unique_ptr<DIR, int (*)(DIR*)> proc(opendir("/proc"), closedir);
  if (!proc) return std::nullopt;
  std::vector<pid_t> children;
  while (dirent* entry = readdir(proc.get()))
    if (std::atoi(entry->d_name) > 0 && parent_of(entry->d_name) == getpid())
      children.push_back(std::atoi(entry->d_name));
  return children;
}

}  // namespace

std::optional<std::vector<pid_t>> own_children() {
  std::ifstream file("/proc/self/task/" + std::to_string(getpid()) + "/children");
  if (!file) return children_from_proc();
  std::vector<pid_t> children;
  for (pid_t pid; file >> pid;) children.push_back(pid);
  return children;
}

std::optional<std::vector<pid_t>> children_in_session(pid_t session) {
  auto children = own_children();
  if (children) std::erase_if(*children, [&](pid_t pid) { return getsid(pid) != session; });
  return children;
}

void signal_session(pid_t session, int number) {
  if (auto members = children_in_session(session))
    for (pid_t pid : *members) kill(pid, number);
}

}  // namespace preforkd
