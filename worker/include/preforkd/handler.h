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
 * connection at a time. A worker's life: start, then serve as often as clients come, then stop. It can end at
 * any moment without `stop`: a crash, a deadline (timeouts.start, timeouts.connection, timeouts.drain), a
 * SIGKILL from outside.
 *
 * A handler may block, crash, leak, throw nothing (an exception that leaves it ends the worker: use
 * preforkd/handler.hpp), and must not: call exit() to leave (it counts as a crash; ask for `recycle`), close
 * descriptors that it did not open, change the signal mask, or use SIGTERM, SIGUSR1, SIGUSR2 or SIGURG, which are
 * preforkd's in a worker. SIGUSR2 comes when the supervisor is killed, once: a sleep or poll may end early then (EINTR),
 * reads and writes go on. (In preload SIGCHLD and SIGIO are, too; what it changes of these is put back.) SIGPIPE is
 * ignored. Descriptor 2 is the log, 0 is /dev/null. A child that it forks is its own to reap; one that it leaves
 * behind keeps whatever it inherited, the connection included: but when `serve` returns that is shut down for writing
 * (unless the client has ended its half), so that the client sees the end of its answer.
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

/* The version of this interface. A handler that was compiled for an older version runs on a newer daemon: structures
 * only grow, at their end. One that was compiled for a newer version is refused when the pool is loaded ("handler
 * ABI version 3, this preforkd supports 1 to 2"), so that a handler may call whatever its own header declares. */
#define PREFORKD_ABI 2u

/* What preforkd offers: handed to `preload`, valid as long as the process and at the same place in every
 * worker, so that a handler may keep the pointer. Its functions may be called from the thread that runs
 * `start` or `serve`, and from no other; they copy what they are given, never block on anybody, and cannot
 * fail. Where there is no worker (in `preload`) or no connection in hand, all but `log` do nothing. */
struct preforkd_host {
  uint32_t abi;         /* the daemon's PREFORKD_ABI: from 1 to this one is understood */
  uint32_t size;        /* of this structure, in bytes */
  const char* pool;     /* its name */
  const char* settings; /* the pool's `settings` as a JSON object; "{}" without */

  /* Writes one line to preforkd's log; `level` is syslog's (3 error, 4 warning, 6 info, 7 debug). In
   * `preload` it goes through the daemon, which adds the pool; in a worker to descriptor 2. It does not wait: a line that
   * nobody has room for is lost. */
  void (*log)(int level, const char* text);

  /* ---- since version 2 ---- */

  /* What the worker is doing with the connection in hand, as in "GET /x": shown by `preforkctl workers`, and
   * in what is logged of a connection that takes too long. At most 127 bytes of printable ASCII; the rest is
   * cut off, other bytes are shown as "?". Costs a few stores: call it as often as you like. */
  void (*note)(const char* text);

  /* The connection in hand may take until so many milliseconds from now, even if `timeouts.connection` would
   * end it before. Each call counts from its own now; one that comes too late finds the worker killed. It
   * shortens nothing, and a drain's deadline stays what it is. */
  void (*extend)(uint32_t milliseconds);

  /* This worker leaves after the connection in hand (called in `start`: after its first one), and is replaced;
   * the replacement is made at once. For a handler that knows that its process is worn out. */
  void (*recycle)(void);
};

/* One accepted connection. All of it is valid until `serve` returns. */
struct preforkd_connection {
  uint32_t size; /* of this structure, in bytes */
  int fd; /* a connected, blocking stream socket, close-on-exec; preforkd closes it after `serve` */
  const struct sockaddr*
      peer; /* the client's address (AF_INET, AF_INET6; AF_UNIX without a path) */
  socklen_t peer_length;
  uint64_t number; /* 1 for this worker's first connection, and so on */

  /* ---- since version 2 ---- */
  const struct sockaddr* local; /* the address that the client connected to */
  socklen_t local_length;
};

struct preforkd_handler {
  uint32_t abi;     /* PREFORKD_ABI as the handler was compiled */
  uint32_t size;    /* sizeof(struct preforkd_handler) as the handler was compiled */
  const char* name; /* for messages; static */

  /* Once, in the supervisor, before the first worker is forked; may be NULL. Store what the other
   * functions need in *state, which is handed to them as it is and is never freed by preforkd. Not 0: the pool cannot
   * run (a reload fails and changes nothing; at the start it is tried again, later each time); log why first.
   * It must leave no thread behind: a fork would not copy it. The pool is refused then. It runs again, in a new
   * supervisor, at each reload, recycling of the pool, and upgrade. */
  int (*preload)(const struct preforkd_host* host, void** state);

  /* In each worker before its first connection; may be NULL. At most `workers.starting` workers of a pool
   * run it at once, each for at most `timeouts.start`. Not 0: the worker dies, as if it had crashed: five rounds of
   * such deaths in a row, and the pool is `degraded` and forks ever more slowly, until one comes through. */
  int (*start)(void* state);

  /* Serves one connection, for as long as it takes (see timeouts.connection). 0: it is counted as served.
   * Anything else: as aborted if the client had ended it (had reset it, was out of reach, or had closed before a byte
   * was sent to it), else as failed. Either way preforkd closes c->fd, and the worker goes on to the next one. */
  int (*serve)(void* state, const struct preforkd_connection* c);

  /* In a worker that leaves in an orderly way (surplus, drain, recycling), after its last connection; may be NULL. It
   * has as long as `timeouts.drain`. */
  void (*stop)(void* state);
};

/* The symbol that preforkd looks up, visible whatever -fvisibility says. */
extern __attribute__((visibility("default"))) const struct preforkd_handler preforkd_handler;
#define PREFORKD_HANDLER const struct preforkd_handler preforkd_handler

#ifdef __cplusplus
}
#endif

#endif /* PREFORKD_HANDLER_H */
