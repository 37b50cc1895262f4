// What preforkd asks the kernel for, answered by the simulation: calls past libc (base/system_call.h), and those of libc, which
// the linker leads here (--wrap; the Makefile has the list). Outside of a simulation they are the real kernel's.
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/system_call.h"
#include "tests/sim/kernel.h"
#include "worker/signals.h"

namespace preforkd::sim {
namespace {

bool is_running() { return kernel && kernel->current(); }

// As libc has errors.
long or_errno(long result) {
  if (result >= 0) return result;
  errno = static_cast<int>(-result);
  return -1;
}

uint64_t bits_of(const sigset_t& set) {
  uint64_t bits;
  std::memcpy(&bits, &set, sizeof bits);
  return bits;
}

Nanoseconds deadline_of(const timespec* relative) {
  if (!relative) return kNever;
  return kernel->now() + static_cast<Nanoseconds>(relative->tv_sec) * kSecond +
         static_cast<Nanoseconds>(relative->tv_nsec);
}

void set_action(int number, void (*handler)(int), bool blocks_itself) {
  Process& process = *kernel->current();
  process.actions[static_cast<size_t>(number)] = {handler, blocks_itself};
  if (handler == SIG_IGN) process.pending &= ~signal_bit(number);
}

long set_mask(int how, const uint64_t* set, uint64_t* before) {
  const uint64_t now = kernel->current()->blocked;
  if (before) *before = now;
  if (!set) return 0;
  kernel->set_blocked(how == SIG_SETMASK ? *set : how == SIG_BLOCK ? now | *set : now & ~*set);
  kernel->deliver_signals();
  return 0;
}

long futex(const void* word, int operation, uint32_t value, const timespec* until) {
  if (operation == FUTEX_WAKE) return kernel->wake(word, static_cast<int>(value));
  if (*static_cast<const volatile uint32_t*>(word) != value) return -EAGAIN;
  const Nanoseconds deadline = until ? static_cast<Nanoseconds>(until->tv_sec) * kSecond +
                                           static_cast<Nanoseconds>(until->tv_nsec)
                                     : kNever;
  const Woken woken = kernel->wait_on(word, deadline);
  kernel->deliver_signals();
  return woken == Woken::kEvent ? 0 : woken == Woken::kTimeout ? -ETIMEDOUT : -EINTR;
}

long put_address(sockaddr* to, socklen_t* length) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = 7007;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::memcpy(to, &address, std::min<size_t>(*length, sizeof address));
  *length = sizeof address;
  return 0;
}

int accept_one(int listen_socket, sockaddr* peer, socklen_t* length) {
  const int got = kernel->accept(listen_socket);
  if (got >= 0 && peer) put_address(peer, length);
  return got;
}

// Only signals end it.
long wait_for_signals(Nanoseconds until, const uint64_t* mask) {
  Process& process = *kernel->current();
  const uint64_t before = process.blocked;
  if (mask) kernel->set_blocked(*mask);
  bool any = process.pending & ~process.blocked;
  if (!any) any = kernel->sleep(until, true) == Woken::kSignal;
  if (any) kernel->deliver_signals();
  process.blocked = before;
  kernel->deliver_signals();
  return any ? -EINTR : 0;
}

}  // namespace

long answer(long number, const long (&a)[6]) {
  if (number == SYS_clock_gettime) {
    *reinterpret_cast<timespec*>(a[1]) = to_timespec(kernel->now());
    return 0;
  }
  kernel->step();
  Process& process = *kernel->current();
  switch (number) {
    case SYS_getpid:
      return process.pid;
    case SYS_getppid:
      return process.parent ? process.parent->pid : 1;
    case SYS_close:
      kernel->close(static_cast<int>(a[0]));
      return 0;
    case SYS_dup3:  // of what it does to the one that is replaced
      kernel->close(static_cast<int>(a[1]));
      return a[1];
    case SYS_prctl:
      if (a[0] == PR_SET_PDEATHSIG) process.death_signal = static_cast<int>(a[1]);
      return 0;
    case SYS_setpgid:
    case SYS_prlimit64:
      return 0;
    case SYS_rt_sigaction: {
      const auto signal_number = static_cast<int>(a[0]);
      if (a[2])
        *reinterpret_cast<uint64_t*>(a[2]) =
            reinterpret_cast<uint64_t>(process.actions[static_cast<size_t>(signal_number)].handler);
      if (a[1])
        set_action(signal_number,
                   reinterpret_cast<void (*)(int)>(*reinterpret_cast<const uint64_t*>(a[1])), true);
      return 0;
    }
    case SYS_rt_sigprocmask:
      return set_mask(static_cast<int>(a[0]), reinterpret_cast<const uint64_t*>(a[1]),
                      reinterpret_cast<uint64_t*>(a[2]));
    case SYS_epoll_create1:
      return kernel->open(std::make_unique<Epoll>(), process.pid).fd;
    case SYS_epoll_ctl:
      return kernel->epoll_ctl(static_cast<int>(a[0]), static_cast<int>(a[1]),
                               static_cast<int>(a[2]), reinterpret_cast<const epoll_event*>(a[3]));
    case SYS_epoll_pwait:
      return kernel->epoll_wait(static_cast<int>(a[0]), reinterpret_cast<epoll_event*>(a[1]),
                                static_cast<int>(a[2]), kNever,
                                reinterpret_cast<const uint64_t*>(a[4]));
    case SYS_accept4:
      return accept_one(static_cast<int>(a[0]), reinterpret_cast<sockaddr*>(a[1]),
                        reinterpret_cast<socklen_t*>(a[2]));
    case SYS_sendmsg:
      return -EBADF;  // there is no closer: connections end with their client
    default:
      std::fprintf(stderr, "the simulation has no system call %ld\n", number);
      std::abort();
  }
}

}  // namespace preforkd::sim

using preforkd::Nanoseconds;
using preforkd::sim::is_running;
using preforkd::sim::is_simulated;
using preforkd::sim::kernel;
using preforkd::sim::or_errno;

#define REAL(result, name, ...)      \
  result __real_##name(__VA_ARGS__); \
  result __wrap_##name(__VA_ARGS__)

extern "C" {

REAL(int, clock_gettime, clockid_t clock, timespec* to) {
  if (!kernel) return __real_clock_gettime(clock, to);
  *to = preforkd::to_timespec(clock == CLOCK_MONOTONIC || !kernel->current()
                                  ? kernel->now()
                                  : kernel->current()->processor_time);
  return 0;
}

REAL(int, nanosleep, const timespec* how_long, timespec* left) {
  if (!is_running()) return __real_nanosleep(how_long, left);
  kernel->step();
  return static_cast<int>(
      or_errno(preforkd::sim::wait_for_signals(preforkd::sim::deadline_of(how_long), nullptr)));
}

REAL(pid_t, getpid, ) { return is_running() ? kernel->current()->pid : __real_getpid(); }

REAL(pid_t, getsid, pid_t of) {
  if (!is_running()) return __real_getsid(of);
  const auto* process = kernel->find(of ? of : kernel->current()->pid);
  return process ? process->session : static_cast<pid_t>(or_errno(-ESRCH));
}

REAL(int, kill, pid_t to, int number) {
  if (!is_running()) return __real_kill(to, number);
  kernel->step();
  // (Of a group its leader: nobody here has children of his own.)
  if (!kernel->send_signal(std::abs(to), number)) return static_cast<int>(or_errno(-ESRCH));
  kernel->deliver_signals();
  return 0;
}

REAL(int, raise, int number) {
  if (!is_running()) return __real_raise(number);
  kernel->send_signal(kernel->current()->pid, number);
  kernel->deliver_signals();
  return 0;
}

REAL(sighandler_t, signal, int number, sighandler_t handler) {
  if (!is_running()) return __real_signal(number, handler);
  preforkd::sim::set_action(number, handler, true);
  return SIG_DFL;
}

REAL(int, sigaction, int number, const struct sigaction* action, struct sigaction* before) {
  if (!is_running()) return __real_sigaction(number, action, before);
  if (action)
    preforkd::sim::set_action(number, action->sa_handler, !(action->sa_flags & SA_NODEFER));
  return 0;
}

REAL(int, sigprocmask, int how, const sigset_t* set, sigset_t* before) {
  if (!is_running()) return __real_sigprocmask(how, set, before);
  const uint64_t bits = set ? preforkd::sim::bits_of(*set) : 0;
  uint64_t bits_before = 0;
  preforkd::sim::set_mask(how, set ? &bits : nullptr, &bits_before);
  if (before) {
    sigemptyset(before);
    std::memcpy(before, &bits_before, sizeof bits_before);
  }
  return 0;
}

REAL(pid_t, wait4, pid_t which, int* status, int options, rusage* usage) {
  if (!is_running()) return __real_wait4(which, status, options, usage);
  kernel->step();
  return kernel->wait(which, options, status, usage);
}

REAL(pid_t, waitpid, pid_t which, int* status, int options) {
  if (!is_running()) return __real_waitpid(which, status, options);
  kernel->step();
  return kernel->wait(which, options, status, nullptr);
}

// Only to look (WNOWAIT).
REAL(int, waitid, idtype_t type, id_t which, siginfo_t* info, int options) {
  if (!is_running()) return __real_waitid(type, which, info, options);
  info->si_pid = 0;
  int status = 0;
  const pid_t found =
      kernel->peek(type == P_PID ? static_cast<pid_t>(which) : -1,
                   (options & WSTOPPED ? WUNTRACED : 0) | (options & WCONTINUED), &status);
  if (found > 0) info->si_pid = found;
  return found < 0 ? -1 : 0;
}

REAL(int, ppoll, pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  if (!is_running()) return __real_ppoll(fds, count, timeout, mask);
  kernel->step();
  const uint64_t bits = mask ? preforkd::sim::bits_of(*mask) : 0;
  return static_cast<int>(or_errno(preforkd::sim::wait_for_signals(
      preforkd::sim::deadline_of(timeout), mask ? &bits : nullptr)));
}

REAL(int, epoll_create1, int flags) {
  if (!is_running()) return __real_epoll_create1(flags);
  return kernel->open(std::make_unique<preforkd::sim::Epoll>(), kernel->current()->pid).fd;
}

REAL(int, epoll_ctl, int epoll, int operation, int fd, epoll_event* event) {
  if (!is_running()) return __real_epoll_ctl(epoll, operation, fd, event);
  return static_cast<int>(or_errno(kernel->epoll_ctl(epoll, operation, fd, event)));
}

REAL(int, epoll_wait, int epoll, epoll_event* events, int most, int timeout) {
  if (!is_running()) return __real_epoll_wait(epoll, events, most, timeout);
  kernel->step();
  const Nanoseconds until =
      timeout < 0 ? preforkd::kNever
                  : kernel->now() + static_cast<Nanoseconds>(timeout) * preforkd::kMillisecond;
  return static_cast<int>(or_errno(kernel->epoll_wait(epoll, events, most, until, nullptr)));
}

REAL(int, close, int fd) {
  if (!kernel || !is_simulated(fd)) return __real_close(fd);
  kernel->close(fd);
  return 0;
}

REAL(int, accept4, int fd, sockaddr* peer, socklen_t* length, int flags) {
  if (!is_running()) return __real_accept4(fd, peer, length, flags);
  return static_cast<int>(or_errno(preforkd::sim::accept_one(fd, peer, length)));
}

REAL(int, getsockname, int fd, sockaddr* address, socklen_t* length) {
  if (!is_simulated(fd)) return __real_getsockname(fd, address, length);
  kernel->step();
  return static_cast<int>(preforkd::sim::put_address(address, length));
}

REAL(int, getsockopt, int fd, int level, int option, void* value, socklen_t* size) {
  if (!is_simulated(fd)) return __real_getsockopt(fd, level, option, value, size);
  return static_cast<int>(or_errno(-ENOTSOCK));
}

REAL(int, shutdown, int fd, int how) {
  if (!is_simulated(fd)) return __real_shutdown(fd, how);
  return 0;
}

// Its client has ended it, once it is answered.
REAL(ssize_t, recv, int fd, void* to, size_t size, int flags) {
  if (!is_simulated(fd)) return __real_recv(fd, to, size, flags);
  kernel->step();
  return 0;
}

REAL(int, sem_wait, sem_t* semaphore) {
  if (!is_running()) return __real_sem_wait(semaphore);
  kernel->step();
  while (sem_trywait(semaphore) < 0) {
    const auto woken = kernel->wait_on(semaphore, preforkd::kNever);
    kernel->deliver_signals();
    if (woken == preforkd::sim::Woken::kSignal) return static_cast<int>(or_errno(-EINTR));
  }
  return 0;
}

REAL(int, sem_post, sem_t* semaphore) {
  const int result = __real_sem_post(semaphore);
  if (is_running()) kernel->wake(semaphore, 1);
  return result;
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...) {
  long a[6];
  va_list list;
  va_start(list, number);
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  if (!is_running() || number != SYS_futex)
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  kernel->step();
  return or_errno(preforkd::sim::futex(reinterpret_cast<const void*>(a[0]), static_cast<int>(a[1]),
                                       static_cast<uint32_t>(a[2]),
                                       reinterpret_cast<const timespec*>(a[3])));
}

// A simulated process has the simulation's fork (parts/workforce.cc).
REAL(pid_t, fork, ) { return is_running() ? (std::abort(), -1) : __real_fork(); }
REAL(pid_t, _Fork, ) { return is_running() ? (std::abort(), -1) : __real__Fork(); }

void __real__exit(int status);
void __wrap__exit(int status) {
  if (is_running()) kernel->exit(status);
  __real__exit(status);
}

}  // extern "C"
