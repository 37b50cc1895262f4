#include "systemd/fd_store.h"

#include <systemd/sd-daemon.h>

#include <cstdlib>

namespace preforkd {

bool has_fd_store() {
  const char* room = std::getenv("FDSTORE");
  return std::getenv("NOTIFY_SOCKET") && room && std::atoi(room) > 0;
}

void store_fd(const std::string& name, int fd) {
  sd_pid_notify_with_fds(0, 0, ("FDSTORE=1\nFDNAME=" + name).c_str(), &fd, 1);
}

void unstore_fd(const std::string& name) {
  sd_notify(0, ("FDSTOREREMOVE=1\nFDNAME=" + name).c_str());
}

}  // namespace preforkd
