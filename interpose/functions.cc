// What the preloaded object has instead of libc's functions. In a process that is no worker, and for descriptors that are none
// of ours, each is libc's own. What it stands for is in interpose/listener.h.
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "interpose/listener.h"
#include "template/libc.h"

// (To the compiler poll() and its like write only what they are given, and read it nowhere.)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

// Of libc's, for programs that were compiled with _FORTIFY_SOURCE; without a header.
extern "C" int __poll_chk(pollfd*, nfds_t, int, size_t);
extern "C" int __ppoll_chk(pollfd*, nfds_t, const timespec*, const sigset_t*, size_t);

namespace preforkd {
namespace {

using Kind = DescriptorKind;

Kind kind_of(int fd) { return Listener::is_there() ? Listener::numbers()[fd] : Kind::kProgram; }

// Null: it is libc's call.
Listener* of(Kind kind, int fd) {
  return kind_of(fd) == kind ? Listener::of_this_process() : nullptr;
}

// A wait for a client. Null: it is libc's call. In a child it is none.
Listener* waiting_for(bool is_listen) {
  if (!is_listen) return nullptr;
  Listener* const listener = Listener::of_this_process();
  if (!listener) Listener::end_parent();
  return listener;
}

// What fails in here is said, and is the call's error.
template <class Call>
int without_throwing(Call call) {
  try {
    return call();
  } catch (const SysError& e) {
    log_error(e.what());
    errno = e.error();
  } catch (const std::exception& e) {
    log_error(e.what());
    errno = EPERM;
  }
  return -1;
}

bool has_listen(const pollfd* fds, nfds_t count) {
  return Listener::is_there() && std::any_of(fds, fds + count, [](const pollfd& each) {
           return kind_of(each.fd) == Kind::kListen && each.events & (POLLIN | POLLRDNORM);
         });
}

bool has_listen(int epoll) {
  if (kind_of(epoll) != Kind::kEpoll) return false;
  Listener* const listener = Listener::of_this_process();
  return !listener || listener->is_asked_in(epoll);
}

int poll_as_worker(Listener& listener, pollfd* fds, nfds_t count, const Deadline& until,
                   const sigset_t* mask) {
  return without_throwing([&] { return listener.poll(fds, count, until, mask); });
}

// --- select, as poll -----------------------------------------------------------------------------

bool has_listen(int count, const fd_set* to_read) {
  if (!Listener::is_there() || !to_read) return false;
  for (int fd = 0; fd < std::min(count, FD_SETSIZE); ++fd)
    if (FD_ISSET(fd, to_read) && kind_of(fd) == Kind::kListen) return true;
  return false;
}

struct Sets {
  fd_set *to_read, *to_write, *exceptional;
};

std::vector<pollfd> polled(int count, const Sets& sets) {
  std::vector<pollfd> all;
  for (int fd = 0; fd < std::min(count, FD_SETSIZE); ++fd) {
    int events = 0;
    if (sets.to_read && FD_ISSET(fd, sets.to_read)) events |= POLLIN;
    if (sets.to_write && FD_ISSET(fd, sets.to_write)) events |= POLLOUT;
    if (sets.exceptional && FD_ISSET(fd, sets.exceptional)) events |= POLLPRI;
    if (events) all.push_back({fd, static_cast<short>(events), 0});
  }
  return all;
}

int select_as_worker(Listener& listener, int count, const Sets& sets, const Deadline& until,
                     const sigset_t* mask) {
  std::vector<pollfd> fds = polled(count, sets);
  if (const int got = poll_as_worker(listener, fds.data(), fds.size(), until, mask); got < 0)
    return got;
  for (const pollfd& each : fds)
    if (each.revents & POLLNVAL) return errno = EBADF, -1;
  int ready = 0;
  auto put = [&](fd_set* set, const pollfd& each, int asked, int answers) {
    if (!set || !(each.events & asked)) return;
    if (each.revents & answers)
      ++ready;
    else
      FD_CLR(each.fd, set);
  };
  for (const pollfd& each : fds) {
    put(sets.to_read, each, POLLIN, POLLIN | POLLHUP | POLLERR);
    put(sets.to_write, each, POLLOUT, POLLOUT | POLLERR);
    put(sets.exceptional, each, POLLPRI, POLLPRI);
  }
  return ready;
}

// --- descriptors ---------------------------------------------------------------------------------

// False: it is not to be closed.
bool may_close(int fd) {
  const Kind kind = kind_of(fd);
  if (kind == Kind::kProgram) return true;
  Listener* const listener = Listener::of_this_process();
  if (!listener) return true;
  if (kind == Kind::kPreforkd) return false;
  listener->closes(fd);
  return true;
}

// As the call's result; -1: there is none.
int copied(int from, int to) {
  const Kind kind = kind_of(from);
  if (to < 0 || (kind != Kind::kListen && kind != Kind::kConnection)) return to;
  if (Listener* const listener = Listener::of_this_process()) listener->copied(from, to);
  return to;
}

int close_all(unsigned first, unsigned last, int flags) {
  const bool closes = !(flags & CLOSE_RANGE_CLOEXEC);
  const unsigned end = std::min(last, static_cast<unsigned>(DescriptorNumbers::kMost) - 1);
  unsigned from = first;
  int result = 0;
  for (unsigned fd = first; fd <= end; ++fd) {
    const Kind kind = kind_of(static_cast<int>(fd));
    if (kind == Kind::kProgram || (kind != Kind::kPreforkd && !closes)) continue;
    if (may_close(static_cast<int>(fd))) continue;
    if (fd > from) result |= PREFORKD_LIBC(close_range)(from, fd - 1, flags);
    from = fd + 1;
  }
  if (from <= last) result |= PREFORKD_LIBC(close_range)(from, last, flags);
  return result;
}

// O_NONBLOCK of the listen socket is this process's own.
int control_listen(Listener& listener, int fd, int command, long argument) {
  const int result = command == F_SETFL ? 0 : PREFORKD_LIBC(fcntl)(fd, command, argument);
  if (command == F_SETFL) listener.set_nonblocking(argument & O_NONBLOCK);
  if (command != F_GETFL || result < 0) return result;
  return listener.is_nonblocking() ? result | O_NONBLOCK : result & ~O_NONBLOCK;
}

int control(int fd, int command, long argument) {
  if (Listener* const listener = of(Kind::kListen, fd);
      listener && (command == F_GETFL || command == F_SETFL))
    return control_listen(*listener, fd, command, argument);
  const int result = PREFORKD_LIBC(fcntl)(fd, command, argument);
  const bool is_copy = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
  return is_copy ? copied(fd, result) : result;
}

}  // namespace
}  // namespace preforkd

using namespace preforkd;

// --- waiting -------------------------------------------------------------------------------------

PREFORKD_INSTEAD int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  if (Listener* const listener = waiting_for(kind_of(fd) == Kind::kListen))
    return without_throwing([&] { return listener->accept(address, length, flags); });
  return PREFORKD_LIBC(accept4)(fd, address, length, flags);
}

PREFORKD_INSTEAD int accept(int fd, sockaddr* address, socklen_t* length) {
  if (Listener* const listener = waiting_for(kind_of(fd) == Kind::kListen))
    return without_throwing([&] { return listener->accept(address, length, 0); });
  return PREFORKD_LIBC(accept)(fd, address, length);
}

PREFORKD_INSTEAD int poll(pollfd* fds, nfds_t count, int timeout) {
  if (Listener* const listener = waiting_for(has_listen(fds, count)))
    return poll_as_worker(*listener, fds, count, Deadline::in_milliseconds(timeout), nullptr);
  return PREFORKD_LIBC(poll)(fds, count, timeout);
}

PREFORKD_INSTEAD int ppoll(pollfd* fds, nfds_t count, const timespec* timeout,
                           const sigset_t* mask) {
  if (Listener* const listener = waiting_for(has_listen(fds, count)))
    return poll_as_worker(*listener, fds, count, Deadline::in(timeout), mask);
  return PREFORKD_LIBC(ppoll)(fds, count, timeout, mask);
}

PREFORKD_INSTEAD int __poll_chk(pollfd* fds, nfds_t count, int timeout, size_t size) {
  if (Listener* const listener = waiting_for(has_listen(fds, count)))
    return poll_as_worker(*listener, fds, count, Deadline::in_milliseconds(timeout), nullptr);
  return PREFORKD_LIBC(__poll_chk)(fds, count, timeout, size);
}

PREFORKD_INSTEAD int __ppoll_chk(pollfd* fds, nfds_t count, const timespec* timeout,
                                 const sigset_t* mask, size_t size) {
  if (Listener* const listener = waiting_for(has_listen(fds, count)))
    return poll_as_worker(*listener, fds, count, Deadline::in(timeout), mask);
  return PREFORKD_LIBC(__ppoll_chk)(fds, count, timeout, mask, size);
}

// (Linux writes into the time what is left of it.)
PREFORKD_INSTEAD int select(int count, fd_set* to_read, fd_set* to_write, fd_set* exceptional,
                            timeval* timeout) {
  Listener* const listener = waiting_for(has_listen(count, to_read));
  if (!listener) return PREFORKD_LIBC(select)(count, to_read, to_write, exceptional, timeout);
  timespec time{};
  if (timeout) time = {timeout->tv_sec, timeout->tv_usec * 1000};
  const Deadline until = Deadline::in(timeout ? &time : nullptr);
  const int got =
      select_as_worker(*listener, count, {to_read, to_write, exceptional}, until, nullptr);
  if (timeout) {
    const timespec left = to_timespec(until.left());
    *timeout = {left.tv_sec, left.tv_nsec / 1000};
  }
  return got;
}

PREFORKD_INSTEAD int pselect(int count, fd_set* to_read, fd_set* to_write, fd_set* exceptional,
                             const timespec* timeout, const sigset_t* mask) {
  if (Listener* const listener = waiting_for(has_listen(count, to_read)))
    return select_as_worker(*listener, count, {to_read, to_write, exceptional},
                            Deadline::in(timeout), mask);
  return PREFORKD_LIBC(pselect)(count, to_read, to_write, exceptional, timeout, mask);
}

PREFORKD_INSTEAD int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) {
  if (Listener* const listener = of(Kind::kListen, fd))
    return without_throwing([&] { return listener->control_epoll(epoll, operation, fd, event); });
  return PREFORKD_LIBC(epoll_ctl)(epoll, operation, fd, event);
}

PREFORKD_INSTEAD int epoll_wait(int epoll, epoll_event* events, int most, int timeout) {
  if (Listener* const listener = waiting_for(has_listen(epoll)))
    return without_throwing([&] {
      return listener->wait_epoll(epoll, events, most, Deadline::in_milliseconds(timeout), nullptr);
    });
  return PREFORKD_LIBC(epoll_wait)(epoll, events, most, timeout);
}

PREFORKD_INSTEAD int epoll_pwait(int epoll, epoll_event* events, int most, int timeout,
                                 const sigset_t* mask) {
  if (Listener* const listener = waiting_for(has_listen(epoll)))
    return without_throwing([&] {
      return listener->wait_epoll(epoll, events, most, Deadline::in_milliseconds(timeout), mask);
    });
  return PREFORKD_LIBC(epoll_pwait)(epoll, events, most, timeout, mask);
}

PREFORKD_INSTEAD int epoll_pwait2(int epoll, epoll_event* events, int most, const timespec* timeout,
                                  const sigset_t* mask) {
  if (Listener* const listener = waiting_for(has_listen(epoll)))
    return without_throwing(
        [&] { return listener->wait_epoll(epoll, events, most, Deadline::in(timeout), mask); });
  return PREFORKD_LIBC(epoll_pwait2)(epoll, events, most, timeout, mask);
}

// --- the sockets ---------------------------------------------------------------------------------

PREFORKD_INSTEAD int listen(int fd, int backlog) {
  return of(Kind::kListen, fd) ? 0 : PREFORKD_LIBC(listen)(fd, backlog);
}

PREFORKD_INSTEAD int shutdown(int fd, int how) {
  if (of(Kind::kListen, fd)) return 0;
  if (Listener* const listener = how == SHUT_RD ? nullptr : of(Kind::kConnection, fd))
    listener->shuts_writing();
  return PREFORKD_LIBC(shutdown)(fd, how);
}

PREFORKD_INSTEAD int getpeername(int fd, sockaddr* address, socklen_t* length) {
  if (Listener* const listener = of(Kind::kConnection, fd))
    if (const SocketAddress* known = listener->peer())
      return copy_address(*known, address, length), 0;
  return PREFORKD_LIBC(getpeername)(fd, address, length);
}

PREFORKD_INSTEAD int getsockname(int fd, sockaddr* address, socklen_t* length) {
  if (Listener* const listener = of(Kind::kConnection, fd))
    if (const SocketAddress* known = listener->local())
      return copy_address(*known, address, length), 0;
  return PREFORKD_LIBC(getsockname)(fd, address, length);
}

// --- their numbers -------------------------------------------------------------------------------

PREFORKD_INSTEAD int close(int fd) {
  return may_close(fd) ? PREFORKD_LIBC(close)(fd) : (errno = EBADF, -1);
}

PREFORKD_INSTEAD int fclose(FILE* file) {
  if (Listener::is_there() && file)
    if (const int fd = fileno(file); of(Kind::kConnection, fd)) {
      fflush(file);
      may_close(fd);
    }
  return PREFORKD_LIBC(fclose)(file);
}

PREFORKD_INSTEAD int close_range(unsigned first, unsigned last, int flags) noexcept {
  if (!Listener::of_this_process()) return PREFORKD_LIBC(close_range)(first, last, flags);
  return close_all(first, last, flags);
}

PREFORKD_INSTEAD void closefrom(int lowest) noexcept {
  if (!Listener::of_this_process()) return PREFORKD_LIBC(closefrom)(lowest);
  close_all(static_cast<unsigned>(std::max(lowest, 0)), ~0u, 0);
}

PREFORKD_INSTEAD int dup(int fd) noexcept { return copied(fd, PREFORKD_LIBC(dup)(fd)); }

PREFORKD_INSTEAD int dup3(int from, int to, int flags) noexcept {
  if (from != to && !may_close(to)) return errno = EBUSY, -1;
  return copied(from, PREFORKD_LIBC(dup3)(from, to, flags));
}

PREFORKD_INSTEAD int dup2(int from, int to) noexcept {
  if (from == to) return PREFORKD_LIBC(dup2)(from, to);
  if (!may_close(to)) return errno = EBUSY, -1;
  return copied(from, PREFORKD_LIBC(dup2)(from, to));
}

#define PREFORKD_ARGUMENT(last)                  \
  va_list arguments;                             \
  va_start(arguments, last);                     \
  const long argument = va_arg(arguments, long); \
  va_end(arguments)

PREFORKD_INSTEAD int fcntl(int fd, int command, ...) {
  PREFORKD_ARGUMENT(command);
  return control(fd, command, argument);
}

PREFORKD_INSTEAD int fcntl64(int fd, int command, ...) {
  PREFORKD_ARGUMENT(command);
  return control(fd, command, argument);
}

PREFORKD_INSTEAD int ioctl(int fd, unsigned long request, ...) noexcept {
  PREFORKD_ARGUMENT(request);
  if (Listener* const listener = request == FIONBIO && argument ? of(Kind::kListen, fd) : nullptr)
    return listener->set_nonblocking(*reinterpret_cast<const int*>(argument) != 0), 0;
  return PREFORKD_LIBC(ioctl)(fd, request, argument);
}
