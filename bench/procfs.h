// What /proc tells about other processes.
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"

namespace preforkd::bench {

inline std::string proc_path(pid_t pid, const std::string& file) {
  return "/proc/" + std::to_string(pid) + "/" + file;
}

inline std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  for (const auto& task : std::filesystem::directory_iterator(proc_path(pid, "task"))) {
    std::ifstream list(task.path() / "children");
    for (pid_t child; list >> child;) children.push_back(child);
  }
  return children;
}

// The process and everything below it.
inline std::vector<pid_t> tree_of(pid_t pid) {
  std::vector<pid_t> tree{pid};
  for (size_t i = 0; i < tree.size(); i++)
    for (pid_t child : children_of(tree[i])) tree.push_back(child);
  return tree;
}

// The sum of the lines "NAME: NUMBER ..." of a file whose names begin with `prefix`.
inline uint64_t sum_of_lines(const std::string& path, const std::vector<std::string>& names) {
  std::ifstream file(path);
  uint64_t sum = 0;
  size_t found = 0;
  for (std::string line; std::getline(file, line);) {
    for (const std::string& name : names) {
      if (!line.starts_with(name + ":")) continue;
      sum += std::stoull(line.substr(name.size() + 1));
      found++;
    }
  }
  if (found != names.size()) throw SysError("read " + names[0] + " of " + path, errno);
  return sum;
}

inline uint64_t private_dirty_kb(pid_t pid) {
  return sum_of_lines(proc_path(pid, "smaps_rollup"), {"Private_Dirty"});
}

// How often any task of the process was taken off the processor: 0 more means that it never ran.
inline uint64_t context_switches(pid_t pid) {
  uint64_t sum = 0;
  for (const auto& task : std::filesystem::directory_iterator(proc_path(pid, "task")))
    sum += sum_of_lines(task.path() / "status",
                        {"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"});
  return sum;
}

// "preforkd: worker echo", as ps shows it.
inline std::string title_of(pid_t pid) {
  std::ifstream file(proc_path(pid, "cmdline"));
  std::string title;
  std::getline(file, title, '\0');
  return title.substr(0, title.find_last_not_of(' ') + 1);
}

}  // namespace preforkd::bench
