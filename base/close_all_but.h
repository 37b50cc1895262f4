// For a child, which is not to have its parent's descriptors as long as it does something that may take long.
#pragma once

#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

namespace preforkd {

// One by one: those that are open, for the limit may be a thousand million. (Where /proc is missing, too: up to that.)
inline void close_each_between(int first, unsigned last) {
  std::vector<int> open;
  std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  if (folder) {
    while (const dirent* entry = readdir(folder.get()))
      if (entry->d_name[0] != '.') open.push_back(std::atoi(entry->d_name));
  } else {
    const auto end = static_cast<int>(std::min<long>(last, sysconf(_SC_OPEN_MAX)));
    for (int fd = first; fd <= end; ++fd) open.push_back(fd);
  }
  folder.reset();
  for (const int fd : open)
    if (fd >= first && static_cast<unsigned>(fd) <= last) close(fd);
}

// Closes all descriptors from `first` on but those in `kept`, where -1 stands for none.
inline void close_all_but(int first, std::vector<int> kept) {
  auto close_between = [](int from, unsigned to) {
    if (static_cast<unsigned>(from) > to || syscall(SYS_close_range, from, to, 0) == 0) return;
    close_each_between(from, to);
  };
  std::sort(kept.begin(), kept.end());
  for (const int fd : kept) {
    if (fd < first) continue;
    if (fd > first) close_between(first, static_cast<unsigned>(fd) - 1);
    first = fd + 1;
  }
  close_between(first, ~0u);
}

}  // namespace preforkd
