// As it was compiled for the first version of the interface: its declarations are written down here as they were,
// and stay so.
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

extern "C" {
struct host_1 {
  uint32_t abi, size;
  const char *pool, *settings;
  void (*log)(int, const char*);
};
struct connection_1 {
  uint32_t size;
  int fd;
  const struct sockaddr* peer;
  socklen_t peer_length;
  uint64_t number;
};
struct handler_1 {
  uint32_t abi, size;
  const char* name;
  int (*preload)(const struct host_1*, void**);
  int (*start)(void*);
  int (*serve)(void*, const struct connection_1*);
  void (*stop)(void*);
};
extern __attribute__((visibility("default"))) const struct handler_1 preforkd_handler;
}

namespace {

int preload(const host_1* host, void** state) {
  host->log(6, "of the first version");
  *state = const_cast<host_1*>(host);
  return host->size < sizeof *host;
}

int serve(void* state, const connection_1* c) {
  const char* pool = static_cast<const host_1*>(state)->pool;
  if (c->size < sizeof *c || c->number == 0 || c->peer->sa_family != AF_INET) return 1;
  return send(c->fd, pool, strlen(pool), MSG_NOSIGNAL) < 0;
}

}  // namespace

const struct handler_1 preforkd_handler = {
    1, sizeof preforkd_handler, "abi_1", preload, nullptr, serve, nullptr};
