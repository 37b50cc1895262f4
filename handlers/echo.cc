// echo (RFC 862): sends back what it receives until the client has finished.
#include <preforkd/handler.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace {

bool send_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    data += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

int serve(void*, const preforkd_connection* c) {
  // On the stack and not large: what a worker has touched once is its private memory for good.
  char buffer[16 * 1024];
  for (;;) {
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return 0;
    if (got < 0 || !send_all(c->fd, buffer, static_cast<size_t>(got))) return 1;
  }
}

}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI, sizeof(preforkd_handler), "echo", nullptr, nullptr, serve,
                    nullptr};
