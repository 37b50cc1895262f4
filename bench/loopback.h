// What the load generators share: sockets to 127.0.0.1, which is the only place that they go to.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace preforkd::bench {

inline sockaddr_in loopback_address(uint32_t host, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(host);
  address.sin_port = htons(port);
  return address;
}

inline UniqueFd tcp_socket(int flags = 0) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd.is_open()) throw SysError("socket", errno);
  return fd;
}

inline int connect_to_loopback(int fd, uint16_t port) {
  sockaddr_in address = loopback_address(INADDR_LOOPBACK, port);
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

// A command-line argument that must be a number from 1 to `most`.
inline double number_argument(const char* name, const char* text, double most) {
  char* end = nullptr;
  double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0 && value <= most))
    throw std::invalid_argument(std::string(name) + " " + text +
                                ": expected a number above 0, at most " +
                                std::to_string(static_cast<long>(most)));
  return value;
}

// What main() of such a program does: its exit status, and what it throws as a line.
inline int run_program(const char* name, int (*run)(int, char**), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace preforkd::bench
