/* preforkd/handler.h - what a handler is: a shared object that serves connections in preforkd's workers.
 *
 * A handler exports one descriptor:
 *
 *     #include <preforkd/handler.h>
 *     static int serve(void *state, const struct preforkd_connection *c) { ... return 0; }
 *     PREFORKD_HANDLER = { PREFORKD_ABI, sizeof(struct preforkd_handler), "mine", 0, 0, serve, 0 };
 *
 * and is built with: cc -shared -fPIC -o mine.so mine.c
 *
 * Every call runs as the pool's user. `preload` runs once, in the supervisor, before any worker exists:
 * what it loads is shared by all workers, copy-on-write. `start`, `serve` and `stop` run in a worker,
 * which is a process of its own, single-threaded unless the handler makes threads, and serves one
 * connection at a time.
 *
 * Signals: SIGUSR1, SIGUSR2 and SIGTERM are preforkd's in a worker; leave them and the signal mask as
 * they are. A handler may block, crash, leak: its worker is replaced.
 *
 * This header compiles as C99 and as C++.
 */
#ifndef PREFORKD_HANDLER_H
#define PREFORKD_HANDLER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. A handler is refused if its abi is newer than the daemon's, or 0.
 * Within a version structures only grow at their end: compare `size` before you read a later field. */
#define PREFORKD_ABI 1u

/* What preforkd offers to `preload`. Lives as long as the process, and its copies in every worker. */
struct preforkd_host {
  uint32_t abi;  /* the daemon's PREFORKD_ABI */
  uint32_t size; /* of this structure, in bytes */
  const char* pool;
  const char* settings; /* the pool's `settings` as a JSON object; "{}" without */
  /* Writes one line to preforkd's log; `level` is syslog's (3 error, 4 warning, 6 info, 7 debug). May be
   * called from every function below. Never blocks in `preload`; in a worker it writes to descriptor 2. */
  void (*log)(int level, const char* text);
};

/* One accepted connection. Valid during `serve`. */
struct preforkd_connection {
  uint32_t size; /* of this structure, in bytes */
  int fd;        /* a connected, blocking stream socket; preforkd closes it after `serve` */
  const struct sockaddr* peer; /* the client's address (AF_INET, AF_INET6, AF_UNIX) */
  socklen_t peer_length;
  uint64_t number; /* 1 for this worker's first connection, and so on */
};

struct preforkd_handler {
  uint32_t abi;     /* PREFORKD_ABI as the handler was compiled */
  uint32_t size;    /* sizeof(struct preforkd_handler) as the handler was compiled */
  const char* name; /* for messages */

  /* Once, in the supervisor, before the first worker is forked; may be NULL. Store what the other
   * functions need in *state. Not 0: the pool cannot run; log why first. It must leave no thread behind:
   * a fork would not copy it. */
  int (*preload)(const struct preforkd_host* host, void** state);

  /* In each worker before its first connection; may be NULL. At most `workers.starting` workers of a pool
   * run it at once, each for at most `timeouts.start`. Not 0: the worker dies, as if it had crashed. */
  int (*start)(void* state);

  /* Serves one connection. 0: served. Anything else: failed. Either way preforkd closes c->fd. */
  int (*serve)(void* state, const struct preforkd_connection* c);

  /* In a worker that leaves in an orderly way, after its last connection; may be NULL. */
  void (*stop)(void* state);
};

/* The symbol that preforkd looks up, visible whatever -fvisibility says. */
extern __attribute__((visibility("default"))) const struct preforkd_handler preforkd_handler;
#define PREFORKD_HANDLER const struct preforkd_handler preforkd_handler

#ifdef __cplusplus
}
#endif

#endif /* PREFORKD_HANDLER_H */
