#include "systemd/fd_store.h"

#include <cstdlib>

#include "systemd/notify_socket.h"

namespace preforkd {

bool has_fd_store() {
  const char* room = std::getenv("FDSTORE");
  return std::getenv("NOTIFY_SOCKET") && room && std::atoi(room) > 0;
}

void store_fd(const std::string& name, int fd) {
  NotifySocket::of_process().send("FDSTORE=1\nFDNAME=" + name, NotifySocket::Kind::kEach, fd);
}

void unstore_fd(const std::string& name) {
  NotifySocket::of_process().send("FDSTOREREMOVE=1\nFDNAME=" + name, NotifySocket::Kind::kEach);
}

}  // namespace preforkd
