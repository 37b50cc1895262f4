// surroundings: a handler that tells what it was given. Each line of a client is a question, and is answered by
// a line:
//
//   nodelay · keepalive      of its connection: 0 or 1; the seconds, or "off"
//   fast_open · reuse_port   of the socket that it listens on
//   cwd · env NAME · nice · limit NAME · pid
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <preforkd/handler.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace {

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

// The first of this process's descriptors that listens.
int listen_socket() {
  for (int fd = 3; fd < 100; ++fd)
    if (option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1) return fd;
  return -1;
}

std::string limit_text(rlim_t limit) {
  return limit == RLIM_INFINITY ? "unlimited" : std::to_string(limit);
}

std::string limits(const std::string& name) {
  rlimit limit{};
  getrlimit(name == "core" ? RLIMIT_CORE : name == "cpu" ? RLIMIT_CPU : RLIMIT_NOFILE, &limit);
  return limit_text(limit.rlim_cur) + " " + limit_text(limit.rlim_max);
}

std::string answer(const preforkd_connection& c, const std::string& line) {
  const size_t space = line.find(' ');
  const std::string what = line.substr(0, space),
                    of = space == line.npos ? "" : line.substr(space + 1);
  if (what == "nodelay") return std::to_string(option(c.fd, IPPROTO_TCP, TCP_NODELAY));
  if (what == "keepalive")
    return option(c.fd, SOL_SOCKET, SO_KEEPALIVE)
               ? std::to_string(option(c.fd, IPPROTO_TCP, TCP_KEEPIDLE))
               : "off";
  if (what == "fast_open")
    return std::to_string(option(listen_socket(), IPPROTO_TCP, TCP_FASTOPEN));
  if (what == "reuse_port")
    return std::to_string(option(listen_socket(), SOL_SOCKET, SO_REUSEPORT));
  if (what == "cwd") {
    char folder[4096];
    return getcwd(folder, sizeof folder) ? folder : "?";
  }
  if (what == "env") return std::getenv(of.c_str()) ? std::getenv(of.c_str()) : "(not set)";
  if (what == "nice") return std::to_string(getpriority(PRIO_PROCESS, 0));
  if (what == "limit") return limits(of);
  if (what == "pid") return std::to_string(getpid());
  return "?";
}

int serve(void*, const preforkd_connection* c) {
  std::string line;
  for (char next; recv(c->fd, &next, 1, 0) == 1;) {
    if (next != '\n') {
      line += next;
      continue;
    }
    const std::string said = answer(*c, line) + "\n";
    if (send(c->fd, said.data(), said.size(), MSG_NOSIGNAL) < 0) return 1;
    line.clear();
  }
  return 0;
}

}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI, sizeof(preforkd_handler), "surroundings", nullptr, nullptr, serve,
                    nullptr};
