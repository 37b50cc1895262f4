#include "tests/system/client.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/clock.h"
#include "base/error.h"
#include "daemon/resolve.h"
#include "tests/system/check.h"

namespace preforkd::system_test {
namespace {

bool wait_for(int fd, short events, double seconds) {
  pollfd wanted{fd, events, 0};
  return poll(&wanted, 1, static_cast<int>(seconds * 1000)) > 0;
}

double left_until(Nanoseconds deadline) {
  Nanoseconds now = monotonic_now();
  return now < deadline ? to_seconds(deadline - now) : 0;
}

}  // namespace

Client::Client(const std::string& address, const std::string& from) {
  if (!connect(address, from)) throw Failure("connect " + address + ": " + std::strerror(errno));
}

std::optional<Client> Client::try_connect(const std::string& address) {
  Client client;
  if (!client.connect(address)) return {};
  return client;
}

bool Client::connect(const std::string& address, const std::string& from) {
  std::string error;
  auto parsed = parse_listen_address(address, error);
  if (!parsed) throw Failure("address " + address + ": " + error);
  SocketAddress to = resolve(*parsed);
  fd_.reset(socket(to.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd_.is_open()) throw SysError("make socket", errno);
  if (!from.empty()) {
    const SocketAddress own = resolve(*parse_listen_address(from + ":0", error));
    if (bind(fd_.get(), own.get(), own.length) < 0) throw SysError("bind " + from, errno);
  }
  // A blocking connect with a deadline: SO_SNDTIMEO bounds it, also where the accept queue is full.
  timeval patience{static_cast<time_t>(kPatience), 0};
  setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(fd_.get(), to.get(), to.length) == 0) return true;
  if (errno == ECONNREFUSED || errno == ENOENT || errno == ECONNRESET) return false;
  throw Failure("connect " + address + ": " + std::strerror(errno));
}

Client Client::deaf(const std::string& address) {
  std::string error;
  const SocketAddress to = resolve(*parse_listen_address(address, error));
  Client client;
  client.fd_.reset(socket(to.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog program{1, &nothing};
  if (setsockopt(client.fd(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
    throw SysError("SO_ATTACH_FILTER", errno);
  if (::connect(client.fd(), to.get(), to.length) == 0 || errno != EINPROGRESS)
    throw Failure("connect " + address + ": it heard an answer");
  return client;
}

void Client::hear_again() {
  int error = 0;
  socklen_t size = sizeof error;
  if (setsockopt(fd(), SOL_SOCKET, SO_DETACH_FILTER, &error, size) < 0)
    throw SysError("SO_DETACH_FILTER", errno);
  if (!wait_for(fd(), POLLOUT, kPatience)) throw Failure("connect: no answer in time");
  if (getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error)
    throw Failure(std::string("connect: ") + std::strerror(error));
  fcntl(fd(), F_SETFL, fcntl(fd(), F_GETFL) & ~O_NONBLOCK);
}

void Client::send(std::string_view text) {
  while (!text.empty()) {
    ssize_t sent = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) throw Failure(std::string("send: ") + std::strerror(errno));
    text.remove_prefix(static_cast<size_t>(sent));
  }
}

bool Client::readable(double seconds) { return wait_for(fd_.get(), POLLIN, seconds); }

std::string Client::read_bytes(size_t size, double seconds) {
  Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  std::string text(size, '\0');
  size_t have = 0;
  while (have < size) {
    if (!readable(left_until(deadline))) throw Failure("read: no answer in time");
    ssize_t got = recv(fd_.get(), text.data() + have, size - have, 0);
    if (got < 0) throw Failure(std::string("read: ") + std::strerror(errno));
    if (got == 0) throw Failure("read: the stream ended early");
    have += static_cast<size_t>(got);
  }
  return text;
}

std::string Client::read_line(double seconds) {
  Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  std::string line;
  for (;;) {
    std::string next = read_bytes(1, left_until(deadline));
    if (next == "\n") return line;
    line += next;
  }
}

std::string Client::read_until_eof(double seconds) {
  Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  std::string text;
  for (char buffer[65536];;) {
    if (!readable(left_until(deadline))) throw Failure("read: the stream did not end in time");
    ssize_t got = recv(fd_.get(), buffer, sizeof buffer, 0);
    if (got < 0) throw Failure(std::string("read: ") + std::strerror(errno));
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
  }
}

bool Client::echoes(std::string_view text, double seconds) {
  send(text);
  return read_bytes(text.size(), seconds) == text;
}

bool Client::has_answer() { return readable(0); }

bool Client::is_ended(double seconds) {
  Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  for (char buffer[4096]; readable(left_until(deadline));)
    if (recv(fd_.get(), buffer, sizeof buffer, 0) <= 0) return true;
  return false;
}

void Client::half_close() {
  if (shutdown(fd_.get(), SHUT_WR) < 0) throw SysError("half-close", errno);
}

void Client::reset() {
  linger at_once{1, 0};
  setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  fd_.reset();
}

std::string Client::own_address() const {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (getsockname(fd_.get(), address.get(), &address.length) < 0)
    throw SysError("getsockname", errno);
  return to_string(address);
}

bool is_shaking_hands(const std::string& address) {
  char port[8];
  std::snprintf(port, sizeof port, ":%04X", std::stoi(address.substr(address.rfind(':') + 1)));
  std::ifstream table("/proc/net/tcp");
  std::string line, number, local, remote, state;
  std::getline(table, line);
  while (std::getline(table, line)) {
    std::istringstream(line) >> number >> local >> remote >> state;
    if (local.ends_with(port) && state == "03") return true;
  }
  return false;
}

}  // namespace preforkd::system_test
