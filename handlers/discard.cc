// discard (RFC 863): reads until the client has finished, and answers nothing.
#include <preforkd/handler.h>
#include <sys/socket.h>

#include <cerrno>

namespace {

int serve(void*, const preforkd_connection* c) {
  char buffer[16 * 1024];
  for (;;) {
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got == 0 ? 0 : 1;
  }
}

}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI, sizeof(preforkd_handler), "discard", nullptr, nullptr, serve,
                    nullptr};
