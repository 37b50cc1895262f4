#include "systemd/fd_store.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "systemd/notify_socket.h"

namespace preforkd {

bool has_fd_store() {
  const char* room = std::getenv("FDSTORE");
  return std::getenv("NOTIFY_SOCKET") && room && std::atoi(room) > 0;
}

bool store_fd(const std::string& name, int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.is_open()) {
    log_warning("store " + name + ": " + std::strerror(errno));
    return false;
  }
  NotifySocket::of_process().send("FDSTORE=1\nFDNAME=" + name, NotifySocket::Kind::kEach,
                                  std::move(copy));
  return true;
}

void unstore_fd(const std::string& name) {
  NotifySocket::of_process().send("FDSTOREREMOVE=1\nFDNAME=" + name, NotifySocket::Kind::kEach);
}

}  // namespace preforkd
