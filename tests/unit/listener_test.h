// What the tests of listen sockets share (listener_test.cc, moves_test.cc).
#pragma once

#include <CUnit/CUnit.h>
#include <sys/socket.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "conf/settings.h"
#include "daemon/resolve.h"

namespace preforkd::unit {

inline ListenAddress parsed(const std::string& text) {
  std::string error;
  auto address = parse_listen_address(text, error);
  CU_ASSERT_FATAL(address.has_value());
  return *address;
}

inline UniqueFd bare_listen_socket() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress address = resolve(parsed("127.0.0.1:0"));
  CU_ASSERT_EQUAL_FATAL(bind(fd.get(), address.get(), address.length), 0);
  CU_ASSERT_EQUAL_FATAL(listen(fd.get(), 5), 0);
  return fd;
}

inline PoolSettings pool(std::vector<std::string> listen, const TcpOptions& tcp = {}) {
  PoolSettings settings;
  settings.listen = std::move(listen);
  settings.tcp = tcp;
  return settings;
}

// As if systemd had started us with a store; nobody hears what is put there.
class SocketStore {
 public:
  SocketStore() {
    setenv("NOTIFY_SOCKET", "@preforkd-test-nobody", 1);
    setenv("FDSTORE", "8", 1);
  }
  ~SocketStore() {
    unsetenv("NOTIFY_SOCKET");
    unsetenv("FDSTORE");
  }
};

}  // namespace preforkd::unit
