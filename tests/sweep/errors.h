// What a system call of preforkd's processes is made to fail with: the errors that its manual names and that Linux gives
// for it in a world gone wrong (no memory, no descriptors, no rights, a signal, a file that is gone), not those for
// arguments that only a mistake in preforkd could pass (EBADF, EFAULT).
//
// What is in neither list is shown by `sweep record` and belongs into one of them.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace preforkd::sweep {

using Words = uint64_t[6];  // the arguments of a system call

struct Call {
  const char* name;  // with what tells it from others of the same number
  long number;
  std::vector<int> errors;
  // Linux does what was asked and says so all the same: close(2) has closed its descriptor.
  bool is_done = false;
  bool (*is_so)(const Words& arguments,
                bool is_file) = nullptr;  // of several rows with a number the first that applies
};

inline const std::vector<Call>& calls() {
  static const std::vector<Call> kCalls = {
      // Descriptors.
      {"openat", SYS_openat, {EMFILE, ENOMEM, EACCES, ENOENT}},
      {"open", SYS_open, {EMFILE, ENOMEM, EACCES, ENOENT}},
      {"socket", SYS_socket, {EMFILE, ENOBUFS}},
      {"socketpair", SYS_socketpair, {EMFILE, ENOMEM}},
      {"pipe2", SYS_pipe2, {EMFILE, ENFILE}},
      {"eventfd2", SYS_eventfd2, {EMFILE, ENOMEM}},
      {"signalfd4", SYS_signalfd4, {EMFILE, ENOMEM}},
      {"timerfd_create", SYS_timerfd_create, {EMFILE, ENOMEM}},
      {"epoll_create1", SYS_epoll_create1, {EMFILE, ENOMEM}},
      {"epoll_ctl(EPOLL_CTL_ADD)",
       SYS_epoll_ctl,
       {ENOMEM, ENOSPC},
       false,
       [](const Words& a, bool) { return a[1] == EPOLL_CTL_ADD; }},
      {"epoll_ctl", SYS_epoll_ctl, {}},  // what is watched already takes no memory
      {"memfd_create", SYS_memfd_create, {EMFILE, ENOMEM}},
      {"pidfd_open", SYS_pidfd_open, {EMFILE, ENOMEM, ESRCH}},
      {"pidfd_getfd", SYS_pidfd_getfd, {EMFILE, EPERM}},
      {"dup2", SYS_dup2, {EINTR, EMFILE}},
      {"dup3", SYS_dup3, {EINTR, EMFILE}},
      {"dup", SYS_dup, {EMFILE}},
      {"fcntl(F_DUPFD)",
       SYS_fcntl,
       {EMFILE},
       false,
       [](const Words& a, bool) { return a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC; }},
      {"fcntl(F_ADD_SEALS)",
       SYS_fcntl,
       {EBUSY, EPERM},
       false,
       [](const Words& a, bool) { return a[1] == F_ADD_SEALS; }},
      {"fcntl(F_SETPIPE_SZ)",
       SYS_fcntl,
       {EPERM, ENOMEM},
       false,
       [](const Words& a, bool) { return a[1] == F_SETPIPE_SZ; }},
      {"fcntl", SYS_fcntl, {}},
      {"close", SYS_close, {EINTR, EIO}, true},
      {"close_range", SYS_close_range, {ENOSYS, ENOMEM}},
      {"ioctl", SYS_ioctl, {ENOTTY}},
      // Files.
      {"newfstatat(AT_EMPTY_PATH)",
       SYS_newfstatat,
       {ENOMEM},
       false,
       [](const Words& a, bool) { return (a[3] & AT_EMPTY_PATH) != 0; }},
      {"newfstatat", SYS_newfstatat, {ENOENT, EACCES, ENOMEM}},
      {"statx", SYS_statx, {ENOENT, EACCES, ENOMEM}},
      {"fstat", SYS_fstat, {ENOMEM}},
      {"stat", SYS_stat, {ENOENT, EACCES}},
      {"lstat", SYS_lstat, {ENOENT, EACCES}},
      {"access", SYS_access, {ENOENT, EACCES}},
      {"faccessat2", SYS_faccessat2, {ENOENT, EACCES, ENOSYS}},
      {"readlink", SYS_readlink, {ENOENT, EACCES}},
      {"readlinkat", SYS_readlinkat, {ENOENT, EACCES}},
      {"getdents64", SYS_getdents64, {ENOENT, EIO}},
      {"getcwd", SYS_getcwd, {ENOENT, ENOMEM}},
      {"chdir", SYS_chdir, {ENOENT, EACCES}},
      {"mkdir", SYS_mkdir, {EACCES, ENOSPC, EROFS}},
      {"rmdir", SYS_rmdir, {ENOTEMPTY, EBUSY}},
      {"unlink", SYS_unlink, {ENOENT, EACCES, EROFS}},
      {"unlinkat", SYS_unlinkat, {ENOENT, EACCES, EROFS}},
      {"rename", SYS_rename, {EACCES, ENOSPC}},
      {"chmod", SYS_chmod, {EPERM, EROFS}},
      {"fchmod", SYS_fchmod, {EPERM, EROFS}},
      {"fchmodat", SYS_fchmodat, {EPERM, EROFS}},
      {"chown", SYS_chown, {EPERM, EROFS}},
      {"fchown", SYS_fchown, {EPERM, EROFS}},
      {"lchown", SYS_lchown, {EPERM, EROFS}},
      {"fchownat", SYS_fchownat, {EPERM, EROFS}},
      {"ftruncate", SYS_ftruncate, {EIO, ENOSPC}},
      {"fallocate", SYS_fallocate, {ENOSPC, EINTR, ENOMEM}},
      {"lseek", SYS_lseek, {ESPIPE}},
      {"flock", SYS_flock, {EWOULDBLOCK, EINTR, ENOLCK}},
      {"sendfile", SYS_sendfile, {EAGAIN, EIO, ENOMEM}},
      {"copy_file_range", SYS_copy_file_range, {EIO, ENOSPC, EXDEV}},
      {"mmap(file)",
       SYS_mmap,
       {ENOMEM, EAGAIN},
       false,
       [](const Words& a, bool) { return (a[3] & MAP_ANONYMOUS) == 0; }},
      // What is read and written. (That the other end is gone is no fault by itself: it has been killed.)
      {"read(file)",
       SYS_read,
       {EINTR, EIO, ENOMEM},
       false,
       [](const Words&, bool is_file) { return is_file; }},
      {"read", SYS_read, {EINTR, EAGAIN}},
      {"pread64", SYS_pread64, {EINTR, EIO, ENOMEM}},
      {"write(file)",
       SYS_write,
       {EINTR, ENOSPC, EIO},
       false,
       [](const Words&, bool is_file) { return is_file; }},
      {"write", SYS_write, {EINTR, EAGAIN}},
      {"pwrite64", SYS_pwrite64, {EINTR, ENOSPC, EIO}},
      {"readv", SYS_readv, {EINTR, EAGAIN}},
      {"writev", SYS_writev, {EINTR, EAGAIN, ENOMEM}},
      {"splice", SYS_splice, {EAGAIN, ENOMEM}},
      {"recvfrom", SYS_recvfrom, {EINTR, EAGAIN, ENOMEM}},
      {"recvmsg", SYS_recvmsg, {EINTR, EAGAIN, ENOMEM}},
      {"sendto", SYS_sendto, {EINTR, EAGAIN, ENOBUFS}},
      {"sendmsg", SYS_sendmsg, {EINTR, EAGAIN, ENOBUFS, ETOOMANYREFS}},
      // Sockets.
      {"bind", SYS_bind, {EADDRINUSE, EACCES, EADDRNOTAVAIL, ENOMEM}},
      {"listen", SYS_listen, {EADDRINUSE}},
      {"accept4", SYS_accept4, {EINTR, EAGAIN, ECONNABORTED, EMFILE, ENOMEM}},
      {"accept", SYS_accept, {EINTR, EAGAIN, ECONNABORTED, EMFILE, ENOMEM}},
      {"connect", SYS_connect, {ECONNREFUSED, EAGAIN, ENOENT, EACCES}},
      {"setsockopt", SYS_setsockopt, {ENOMEM, ENOPROTOOPT, EPERM}},
      {"getsockopt", SYS_getsockopt, {ENOPROTOOPT, ENOMEM}},
      {"getsockname", SYS_getsockname, {ENOBUFS}},
      {"getpeername", SYS_getpeername, {ENOBUFS, ENOTCONN}},
      {"shutdown", SYS_shutdown, {ENOTCONN}},
      // Waits.
      {"epoll_wait", SYS_epoll_wait, {EINTR}},
      {"epoll_pwait", SYS_epoll_pwait, {EINTR}},
      {"poll", SYS_poll, {EINTR, ENOMEM}},
      {"ppoll", SYS_ppoll, {EINTR, ENOMEM}},
      {"select", SYS_select, {EINTR, ENOMEM}},
      {"pselect6", SYS_pselect6, {EINTR, ENOMEM}},
      {"clock_nanosleep", SYS_clock_nanosleep, {EINTR}},
      {"futex(wait)",
       SYS_futex,
       {EAGAIN, EINTR},
       false,
       [](const Words& a, bool) { return (a[1] & FUTEX_CMD_MASK) != FUTEX_WAKE; }},
      {"wait4", SYS_wait4, {EINTR, ECHILD}},
      {"waitid", SYS_waitid, {EINTR, ECHILD}},
      // Processes.
      {"clone", SYS_clone, {EAGAIN, ENOMEM}},
      {"clone3", SYS_clone3, {EAGAIN, ENOMEM, ENOSYS}},
      {"fork", SYS_fork, {EAGAIN, ENOMEM}},
      {"vfork", SYS_vfork, {EAGAIN, ENOMEM}},
      {"execve", SYS_execve, {ENOMEM, EACCES, ENOENT, ETXTBSY}},
      {"execveat", SYS_execveat, {ENOMEM, EACCES, ENOENT, ETXTBSY}},
      {"kill", SYS_kill, {ESRCH, EPERM}},
      {"tgkill", SYS_tgkill, {ESRCH, EAGAIN}},
      {"pidfd_send_signal", SYS_pidfd_send_signal, {ESRCH, EPERM}},
      {"setsid", SYS_setsid, {EPERM}},
      {"setpgid", SYS_setpgid, {EPERM, ESRCH, EACCES}},
      {"getsid", SYS_getsid, {ESRCH}},
      {"setgroups", SYS_setgroups, {EPERM, ENOMEM}},
      {"setresgid", SYS_setresgid, {EPERM}},
      {"setresuid", SYS_setresuid, {EPERM, EAGAIN}},
      {"setfsuid", SYS_setfsuid, {}},
      {"setfsgid", SYS_setfsgid, {}},
      {"capset", SYS_capset, {EPERM}},
      {"capget", SYS_capget, {EPERM}},
      {"prctl", SYS_prctl, {EINVAL, EPERM}},
      {"prlimit64", SYS_prlimit64, {EPERM}},
      {"setpriority", SYS_setpriority, {EACCES, EPERM}},
      {"getpriority", SYS_getpriority, {ESRCH}},
      {"sched_setaffinity", SYS_sched_setaffinity, {EPERM}},
      {"sched_getaffinity", SYS_sched_getaffinity, {EPERM}},
      {"seccomp", SYS_seccomp, {EINVAL, ENOMEM, EACCES}},
      {"landlock_create_ruleset", SYS_landlock_create_ruleset, {EOPNOTSUPP, EMFILE}},
      {"landlock_restrict_self", SYS_landlock_restrict_self, {EPERM, ENOMEM}},
      {"getrandom", SYS_getrandom, {ENOSYS, EINTR}},
      {"unshare", SYS_unshare, {EPERM}},
      {"inotify_init1", SYS_inotify_init1, {EMFILE, ENOMEM}},
      {"inotify_add_watch", SYS_inotify_add_watch, {ENOSPC, ENOENT}},
  };
  return kCalls;
}

// Calls at which nothing is done, and why.
struct NotInjected {
  long number;
  const char* reason;
};

inline constexpr char kCannotFail[] =
    "cannot fail, and is seen by nobody else: a kill here is one at the calls beside it";
inline constexpr char kAllocator[] =
    "the allocator's and the loader's: without memory for itself a process ends, as by SIGKILL, "
    "which each of its other calls is met by";
inline constexpr char kAtStart[] = "libc's before main: without it there is no process";
inline constexpr char kEnd[] = "does not return";

inline constexpr NotInjected kNotInjected[] = {
    {SYS_exit, kEnd},
    {SYS_exit_group, kEnd},
    {SYS_rt_sigreturn, kEnd},
    {SYS_restart_syscall, "the kernel's own, in place of the one that was interrupted"},
    {SYS_brk, kAllocator},
    {SYS_mmap, kAllocator},  // what is not of a file
    {SYS_munmap, kAllocator},
    {SYS_mremap, kAllocator},
    {SYS_mprotect, kAllocator},
    {SYS_madvise, kAllocator},
    {SYS_arch_prctl, kAtStart},
    {SYS_set_tid_address, kAtStart},
    {SYS_set_robust_list, kAtStart},
    {SYS_rseq, kAtStart},
    {SYS_rt_sigaction, kCannotFail},
    {SYS_rt_sigprocmask, kCannotFail},
    {SYS_sigaltstack, kCannotFail},
    {SYS_getpid, kCannotFail},
    {SYS_getppid, kCannotFail},
    {SYS_gettid, kCannotFail},
    {SYS_getuid, kCannotFail},
    {SYS_geteuid, kCannotFail},
    {SYS_getgid, kCannotFail},
    {SYS_getegid, kCannotFail},
    {SYS_getgroups, kCannotFail},
    {SYS_umask, kCannotFail},
    {SYS_alarm, kCannotFail},
    {SYS_setitimer, kCannotFail},
    {SYS_rt_sigpending, kCannotFail},
    {SYS_sched_yield, kCannotFail},
    {SYS_clock_gettime, kCannotFail},
    {SYS_futex, kCannotFail},  // what is not a wait
    {SYS_sysinfo, kCannotFail},
    {SYS_uname, kCannotFail},
};

// Whether its first argument can be a file, which has errors of its own.
inline bool tells_files(uint64_t number) { return number == SYS_read || number == SYS_write; }

// The row for a call; nullptr: nothing is done there.
inline const Call* find_call(uint64_t number, const Words& arguments, bool is_file) {
  for (const Call& call : calls())
    if (static_cast<uint64_t>(call.number) == number &&
        (!call.is_so || call.is_so(arguments, is_file)))
      return &call;
  return nullptr;
}

inline const Call* find_call(std::string_view name) {
  for (const Call& call : calls())
    if (name == call.name) return &call;
  return nullptr;
}

inline const char* why_not(uint64_t number) {
  for (const NotInjected& row : kNotInjected)
    if (static_cast<uint64_t>(row.number) == number) return row.reason;
  return nullptr;
}

// Failures of which no message speaks, and by design.
struct Quiet {
  const char* call;      // "": any
  int error;             // 0: any
  const char* function;  // that stands in the stack; "": any
  const char* reason;
};

inline constexpr Quiet kQuiet[] = {
    {"", EINTR, "", "called again: a signal came"},
    {"", EAGAIN, "", "comes every minute: tried again when the descriptor, or time, says so"},
    {"close", 0, "", "the descriptor is closed all the same"},
    {"close_range", 0, "close_all_but", "they are closed one after the other, as before Linux 5.9"},
    {"", 0, "open_trusted", "what root cannot vouch for is opened by the pool's user"},
    {"prctl", 0, "set_process_title", "ps shows another name"},
    {"sendmsg", ENOBUFS, "Channel::send", "waits until there is room"},
    {"sendmsg", ETOOMANYREFS, "Channel::send", "waits until there is room"},
    {"recvmsg", ENOMEM, "Channel::receive", "tried again at once: it is still there"},
    {"recvfrom", ENOMEM, "Channel::receive", "tried again at once: it is still there"},
    {"", 0, "own_children", "looked at again"},
    {"poll", 0, "Child::has_executed", "it is taken not to be executed yet, and has a deadline"},
    {"", 0, "say_stopping", "libc's reading of the time zone: it is UTC then"},
    {"", 0, "queued_on", "how many wait is not known at this look"},
    {"", 0, "queued_by_inode", "how many wait is not known at this look"},
    {"", 0, "find_user", "libc's reading of what says who there is: what counts is its verdict"},
    {"", 0, "readable_executables", "what cannot be looked at is not warned of"},
    {"", ECHILD, "is_reaped_by", "it has been reaped"},
    {"waitid", ECHILD, "Generation::is_dead", "it has been reaped"},
    {"", 0, "SegmentReader::read", "the figures are those of the last look"},
    {"landlock_create_ruleset", EOPNOTSUPP, "", "the kernel may not have it: said at the start"},
    {"landlock_restrict_self", EPERM, "", "it may not be granted: said at the start"},
    {"", 0, "SocketPath::is_there", "what cannot be looked at is taken to be there"},
    {"setsockopt", 0, "refuse_rights", "the kernel may not have it: what is attached is closed"},
    {"writev", ENOMEM, "Outbox::send", "waits until there is room; lines of the log are counted"},
    {"", 0, "takes_clients", "it is taken to be as it was, or said to be shut down, and made anew"},
    {"listen", 0, "Listener::set_backlog", "it listens, as long a queue as before"},
    {"", 0, "threads_of_this_process", "what `preload` has left is not looked for"},
    {"", EACCES, "open_file", "the daemon has opened it for whom it may"},
    {"", 0, "is_mapped", "libc's reading of what says who there is: what counts is its verdict"},
    {"setsockopt", 0, "Listener::refuse", "it has SO_REUSEADDR already, or the next bind says so"},
    {"", 0, "close_apart", "it is closed by the daemon itself"},
    {"", 0, "no_file", "what cannot be looked at is read, and that says why"},
    {"accept4", 0, "Endpoint::accept_some", "tried again: at once, or after a moment"},
    {"fcntl(F_DUPFD)", 0, "ControlLink::tell_segment", "tried again with the next news"},
    {"getsockopt", 0, "Listener::has_reuse_port", "as a socket that has it not"},
    {"prctl", 0, "supervise", "who is left behind comes to the daemon instead"},
    {"pread64", 0, "read_document", "read again, three times in all"},
    {"wait4", ECHILD, "Workforce::reap", "nobody is left to reap, at this turn"},
    {"pidfd_open", 0, "existing_child", "tried once more; or the process has gone, and is reaped"},
    {"faccessat2", ENOSYS, "", "libc asks in another way"},
    {"sendmsg", ENOBUFS, "Endpoint::run",
     "libmicrohttpd's: the client hears of it, and asks again"},
    {"pread64", 0, "tick_of", "the figures are those of the last look"},
    {"setsockopt", 0, "Channel::make_pair",
     "a buffer has the size that it has: fewer messages fit"},
    {"", 0, "SocketPath::remove", "tried once more"},
    {"newfstatat", 0, "socket_in < bind_at", "looked for once more"},
    {"openat", 0, "Endpoint::run", "libmicrohttpd's and libc's own: the time zone"},
    {"newfstatat(AT_EMPTY_PATH)", 0, "Endpoint::run",
     "libmicrohttpd's and libc's own: the time zone"},
    {"setsockopt", 0, "Endpoint::run", "libmicrohttpd's: TCP_NODELAY and the like"},
    {"sendmsg", ETOOMANYREFS, "Endpoint::run",
     "libmicrohttpd's: the client hears of it, and asks again"},
    {"epoll_ctl(EPOLL_CTL_ADD)", 0, "Endpoint::accept_some",
     "libmicrohttpd's: the client hears of it, and asks again"},
    {"epoll_ctl(EPOLL_CTL_ADD)", 0, "Endpoint::run <",
     "libmicrohttpd's: the client hears of it, and asks again"},
    {"", 0, ".so.", "a library's own, before main"},  // (no frame of ours is above it)
    {"", 0, "__libc_init_first", "libc's own, before main"},
    {"", 0, "__libc_early_init", "libc's own, before main"},
    {"newfstatat(AT_EMPTY_PATH)", 0, "rehearse_takeover <", "libc's own: how stdout is buffered"},
    {"listen", 0, "Pool::leave", "a path's file is gone; of an abstract name more get past"},
    {"", 0, "execution_trouble", "what cannot be looked at is executed, and that says why"},
    {"newfstatat(AT_EMPTY_PATH)", 0, "HeldFile::", "its copy is executed"},
    {"openat", ENOENT, "HeldFile::", "what is not there is missed when it is needed"},
    {"openat", EACCES, "HeldFile::make_copy", "one that may not be read has no copy"},
    {"", 0, "Paths::keep_copies < rehearse", "whoever takes over makes copies of his own"},
    {"access", 0, "Paths::find", "what cannot be looked at is taken to be there"},
    {"", 0, "mapped_part < HandlerLibrary", "the loader says it in words of its own"},
    {"", 0, "expect_whole < HandlerLibrary", "the loader says it in words of its own"},
    {"openat", 0, "HandlerLibrary::preload", "what `preload` has left is not looked for"},
    {"", 0, "expect_protocol", "it is taken to be whole"},
    {"prctl", 0, "load_for_daemon", "the end of the one who waits for it would not end it at once"},
    {"openat", 0, "Paths::find < load_for_daemon", "it uses those that it was given"},
    {"openat", EACCES, "HandlerLibrary::HandlerLibrary",
     "the daemon has opened it for whom it may"},
    {"setsockopt", 0, "ClosingPairs::", "a buffer has the size that it has: fewer messages fit"},
    {"read(file)", 0, "Endpoint::run", "libmicrohttpd's and libc's own: the time zone"},
    {"sendmsg", ETOOMANYREFS, "send_to_closer",
     "the connection is closed as it is (without a descriptor there is no such error)"},
    {"recvfrom", ENOMEM, "Endpoint::run",
     "libmicrohttpd's: the client hears of it, and asks again"},
    {"getsockname", ENOBUFS, "local_address", "tried once more"},
    {"lseek", 0, "Endpoint::run", "libmicrohttpd's and libc's own: the time zone"},
    {"wait4", ECHILD, "Children::reap", "nobody is left to reap, at this turn"},
    {"newfstatat(AT_EMPTY_PATH)", 0, "main < preload", "what `preload` has left is not looked for"},
    {"write(file)", 0, "Writer::run", "the log's own descriptor: there is nobody to tell"},
    {"sendmsg", ENOBUFS, "send_to_closer",
     "the connection is closed as it is, or it is said again"},
    {"kill", EPERM, "Closer::", "its end is seen all the same"},
    {"newfstatat(AT_EMPTY_PATH)", 0, "HandlerLibrary::preload",
     "what `preload` has left is not looked for"},
    {"prlimit64", 0, "have_own_files", "the limits stay as they are"},
    {"prlimit64", 0, "RoomForLargeFile", "the limits stay as they are"},
    {"prctl", 0, "become", "the end of the one who waits for it would not end it at once"},
    {"prctl", 0, "in_file_system",
     "its parent's death, which it looks for once more, would not end it"},
    {"prctl", 0, "main < main", "as with a kernel that does not let it"},
    {"prlimit64", 0, "inherited_nofile", "the limits stay as they are"},
    {"prlimit64", 0, "hand_on_surroundings", "the limits stay as they are"},
    {"poll", ENOMEM, "launch_and_wait", "waits again, until its deadline"},
    {"poll", ENOMEM, "in_file_system", "waits again, until its deadline"},
    {"poll", ENOMEM, "Closer::", "looked at again at the next turn"},
    {"listen", 0, "Pool::set_socket_options", "it listens, as long a queue as before"},
    {"setsockopt", 0, "ControlLink::start",
     "a buffer has the size that it has: fewer messages fit"},
    {"waitid", ECHILD, "Children::reap", "nobody is left to reap, at this turn"},
    {"wait4", ECHILD, "Generation::left_behind", "it has been reaped"},
    {"", ENOENT, "SocketPath::watch", "what is gone is bound again"},
    {"kill", EPERM, "WorkerTable::signal",
     "a worker that has another user: its end is seen all the same"},
    {"pread64", 0, "SegmentReader::decisions", "of memory: this answer has no decisions"},
    {"pread64", 0, "Sampler::look", "the figures are those of the last look"},
    {"newfstatat", 0, "load_for_daemon", "what cannot be looked at is read, and that says why"},
    {"prlimit64", 0, "put_surroundings_right", "the limits stay as they are"},
    {"", 0, "trouble_with_own_file", "it is taken to be whole"},
    {"", 0, "own_name", "it is found by the path that it was called with"},
    {"", 0, "left_by_predecessor", "looked at again"},
    {"getrandom", 0, "", "a library's own, before main: it takes something else"},
    {"", 0, "socket_in < watch_at", "looked for once more"},
    {"", 0, "effective_user",
     "libc's reading of what says who there is: what counts is its verdict"},
    {"", 0, "shakes_hands", "taken for somebody who does, until the time for it is over"},
    {"mmap(file)", 0, "HandlerLibrary", "the loader says it in words of its own"},
    {"mmap(file)", 0, "expect_release", "the loader says it in words of its own"},
    {"clone", 0, "Closer::", "connections end without it; it is tried again"},
    {"setsockopt", 0, "Listener::prepare",
     "SO_REUSEADDR and IPV6_V6ONLY: what follows is said by bind"},
    {"shutdown", ENOTCONN, "", "the other end has gone"},
    {"prctl", 0, "become_undumpable", "as with a kernel that does not let it"},
    {"getsockopt", 0, "peer_of", "whose rights are not known has none, and is told so"},
    {"", 0, "libcap.so", "a library's own, before main"},
    {"", 0, "groups_of", "libc's reading of what says who there is: what counts is its verdict"},
    {"", 0, "look_up<", "libc's reading of what says who there is: what counts is its verdict"},
    {"prctl", 0, "be_the_child",
     "its parent's death, which it looks for once more, would not end it"},
    {"", 0, "why_signals_reach_out", "it is said that signals reach out"},
    {"pidfd_send_signal", ESRCH, "", "the process has gone"},
    {"kill", ESRCH, "", "the process has gone"},
    {"getsid", ESRCH, "", "the process has gone"},
    {"listen", 0, "ControlLink::start",
     "it listens already: that makes good what the control before may have done"},
};

// Failures that would last, or cannot be, so that one alone is none of this world.
inline constexpr Quiet kNotDone[] = {
    {"kill", ESRCH, "WorkerTable::signal", "a child that is not reaped is there"},
    {"kill", EPERM, "Workforce::nudge",
     "a worker that took another user is waited for, as long as timeouts.drain says"},
    {"access", ENOENT, "Paths::find", "that nothing is beside: what is installed is taken"},
};

template <size_t kRows>
const Quiet* find_row(const Quiet (&rows)[kRows], std::string_view call, int error,
                      const std::string& stack) {
  for (const Quiet& row : rows)
    if ((!*row.call || call == row.call) && (row.error == 0 || row.error == error) &&
        stack.find(row.function) != stack.npos)
      return &row;
  return nullptr;
}

inline const Quiet* quiet(std::string_view call, int error, const std::string& stack) {
  const Quiet* row = find_row(kQuiet, call, error, stack);
  // Of these EAGAIN is no "not yet": of something there is too little.
  constexpr std::string_view kShort[] = {"mmap(file)", "clone", "clone3",
                                         "fork",       "vfork", "setresuid"};
  const bool is_short = std::find(std::begin(kShort), std::end(kShort), call) != std::end(kShort);
  return is_short && row && !*row->call && row->error == EAGAIN ? quiet(call, ENOMEM, stack) : row;
}

}  // namespace preforkd::sweep
