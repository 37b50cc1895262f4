/* preforkd/serve.h - for a program that accepts by itself: `serve = [ "python3", "app.py" ];` in the configuration.
 *
 * preforkd starts the program as a worker of its pool; the program lives as long as the worker does, and asks for one
 * connection after the other:
 *
 *     #include <preforkd/serve.h>
 *     int main(void) {
 *       struct preforkd_connection c;
 *       int got;
 *       while ((got = preforkd_accept(&c)) > 0) {
 *         int served = answer(c.fd) == 0;
 *         preforkd_done(served);
 *         close(c.fd);
 *       }
 *       return got < 0;
 *     }
 *
 * and is built with: cc -o mine mine.c $(pkg-config --cflags --libs preforkd)
 *
 * The functions are those of libpreforkd.so. It does what preforkd's own workers do: the pool knows who is busy,
 * grows and shrinks, recycles, reloads and upgrades, and loses no connection over it. There are bindings on it for
 * Python and Perl, which preforkd puts in the program's way by itself ($PYTHONPATH, $PERL5LIB).
 *
 * The program runs as the pool's user. Descriptor 0 is /dev/null, 1 and 2 are the log; those from 3 on are
 * preforkd's until the first preforkd_accept(), which makes them close-on-exec: a program that starts others before
 * that closes them there. All functions are for the process that preforkd started (`serve = [ "sh", "-c", "exec
 * ..." ]` is one, a child of it is not) and for its main thread.
 *
 * Signals. SIGURG and SIGUSR2 are blocked from the start (children inherit that; SIGUSR2 until the first
 * preforkd_accept()) and belong to preforkd, and so does SIGTERM from the first preforkd_accept() on. SIGUSR2 comes when
 * preforkd itself is killed, once: a sleep or poll may end early then (EINTR), reads and writes go on. SIGTERM ends the program at once only when its connection, or the whole
 * worker, is to be ended; else it is told to leave by preforkd_accept(). SIGPIPE is ignored from the start.
 *
 * This header compiles as C99 and as C++.
 */
#ifndef PREFORKD_SERVE_H
#define PREFORKD_SERVE_H

#include <preforkd/handler.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Waits for the next connection, however long that takes. What the program does between preforkd_done() and the next
 * call has no deadline. The first call says that the program has started: it must come within `timeouts.start`, else
 * the worker is killed and counted in `timed_out`, and to the pool's breaker it is a crash.
 *
 * 1: *connection is filled in, as far as it goes in version 2 of preforkd/handler.h, and never further: the library may
 * be newer than the program. connection->fd is the caller's, blocking and close-on-exec; the addresses are valid
 * until the next call. A connection that preforkd_done() was not called for counts as served.
 * 0: this worker is not needed any more: the program ends, within `timeouts.drain`, and exits with 0. (So does each
 * further call.) One that exits with 0 by itself, between two connections, is replaced; before its first connection, or
 * with one in hand, that is a crash.
 * -1: it cannot be had; errno says why, and preforkd_error() and the log in words. EPERM: preforkd has not started this process.
 * EBADF and the like: the program has closed descriptors of preforkd's. */
int preforkd_accept(struct preforkd_connection* connection);

/* With `preload = true` preforkd starts the program once, as a template, and forks it in its first preforkd_accept(): that call
 * returns in each worker, and never in the template. What the program has loaded and opened until then it has once for all;
 * preforkd-preload(7) says what workers share, and what to do about it.
 *
 * `function` is called with `argument` in each worker before its first connection (after it was forked, or started without
 * `preload`; it may take `timeouts.start`), in the order in which they were given: to open a connection of its own to a
 * database, or to take random numbers anew. For the time before the first preforkd_accept(). 0; -1 and errno if it cannot be
 * noted. */
int preforkd_after_fork(void (*function)(void* argument), void* argument);

/* The connection in hand is over; `served`: 0 counts it as failed, or as aborted if the client had ended it (see `serve` in
 * preforkd/handler.h); anything else as served. Nothing can be written to it from then on: the client is told of the end,
 * whoever else has a copy of the descriptor. Call it before the descriptor is closed: then a client that has seen the
 * end of its connection finds it counted, and that the client had ended it can be known. */
void preforkd_done(int served);

/* As the functions of the same name in preforkd_host (preforkd/handler.h): what is being done with the connection in
 * hand; that it may take so many milliseconds from now; that this worker is worn out: it is replaced, and
 * preforkd_accept() returns 0 after this connection, or the first one; one line for the log. */
void preforkd_note(const char* text);
void preforkd_extend(uint32_t milliseconds);
void preforkd_recycle(void);
void preforkd_log(int level, const char* text);

/* The addresses of the connection in hand as text, valid until the next preforkd_accept(): "192.0.2.1:4242",
 * "[2001:db8::1]:4242", "unix:/run/mine.sock" or "unix:"; "" without a connection. */
const char* preforkd_peer(void);
const char* preforkd_local(void);

/* The pool's name, and its `settings` as a JSON object; NULL in a process that preforkd has not started. Valid for
 * ever. */
const char* preforkd_pool(void);
const char* preforkd_settings(void);

/* Why the last preforkd_accept() returned -1; valid until the next one. */
const char* preforkd_error(void);

#ifdef __cplusplus
}
#endif

#endif /* PREFORKD_SERVE_H */
