// Whom a pool's processes may signal, where the kernel lets anybody signal who is of the same user: with Landlock's
// scope (Linux 6.12) only each other. The daemon, control, and other pools of that user are out of their reach then,
// for ptrace(2) and all that is allowed by its rules (/proc/PID/mem, pidfd_getfd(2)), too. A domain is inherited, and
// cannot be left. Where the daemon is not root, so that it has its pools' uid, a seccomp filter keeps them from setting
// the limits of others, which would end these as a signal does (prlimit(2) with any pid but 0 is EPERM).
#pragma once

namespace preforkd {

// For this process and all that it will start, between fork and exec. It takes CAP_SYS_ADMIN, or no_new_privs
// (NoNewPrivileges= of a unit; not set here, since a pool's program may be a setuid one). Without effect where it
// cannot be had; for want of memory or descriptors it fails: 0, or an errno.
int keep_signals_within();

// Whether it would have an effect; "", or why not: "Linux has no scope for signals (6.12 has)".
const char* why_signals_reach_out();

}  // namespace preforkd
