// For a child, which is not to have its parent's descriptors as long as it does something that may take long.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace preforkd {

// Closes all descriptors from `first` on but those in `kept`, where -1 stands for none.
inline void close_all_but(int first, std::vector<int> kept) {
  auto close_between = [](int from, unsigned to) {
    if (static_cast<unsigned>(from) > to || syscall(SYS_close_range, from, to, 0) == 0) return;
    const auto last = static_cast<int>(std::min<long>(to, sysconf(_SC_OPEN_MAX)));
    for (int fd = from; fd <= last; ++fd) close(fd);
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
