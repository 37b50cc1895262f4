// fork(2) for the supervisor. glibc's fork() is more than that: it takes and resets locks that only threads could
// have held, and runs what was registered with pthread_atfork(3). In the child each of these writes to a page
// that is copied for it (measured: 10 of 106 µs of a worker's way to its first answer). A supervisor has one
// thread; so where nobody has registered anything, _Fork(3) does the same. Where a handler has (a library
// with a random generator of its own: OpenSSL), it is glibc's.
#pragma once

#include <sys/types.h>

namespace preforkd {

// As fork(2). For a process with one thread.
pid_t quick_fork();

}  // namespace preforkd
