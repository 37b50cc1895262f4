// No core dump of this process, and nobody of its user may look into it (ptrace(2), pidfd_getfd(2), /proc/PID/mem): it
// has descriptors and memory of more than that user. The first act of each program that is not a worker; before it,
// from the first instruction on, the mode of the executable says the same (0711: daemon/launch.h).
#pragma once

#include <sys/prctl.h>

namespace preforkd {

inline void become_undumpable() { prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }

}  // namespace preforkd
