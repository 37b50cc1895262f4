#include "worker/acceptor.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "base/backlog.h"
#include "base/error.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

// accept(2): errors that were pending on the new connection; they say nothing of the listen socket.
bool is_of_the_network(int error) {
  constexpr int kPassing[] = {ENETDOWN,     ENOPROTOOPT, EHOSTDOWN,   ENONET,
                              EHOSTUNREACH, EOPNOTSUPP,  ENETUNREACH, EPERM};
  return std::find(std::begin(kPassing), std::end(kPassing), error) != std::end(kPassing);
}

}  // namespace

Acceptor::Acceptor(const std::vector<int>& listen_sockets) : sockets_(listen_sockets) {}

void Acceptor::register_for_wake() {
  if (registered_) return;
  if (!epoll_.is_open()) {
    const long made = system_call(SYS_epoll_create1, EPOLL_CLOEXEC);
    if (made < 0) throw SysError("epoll_create1", static_cast<int>(-made));
    epoll_.reset(static_cast<int>(made));
  }
  for (size_t i = 0; i < sockets_.size(); ++i) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLEXCLUSIVE;
    event.data.u64 = i;
    if (const long error =
            -system_call(SYS_epoll_ctl, epoll_.get(), EPOLL_CTL_ADD, sockets_[i], &event)) {
      epoll_.reset();  // with those that are in it: whoever tries again begins anew
      throw SysError("epoll_ctl add listen socket", static_cast<int>(error));
    }
  }
  registered_ = true;
}

void Acceptor::unregister() {
  if (!registered_) return;
  for (int fd : sockets_) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  registered_ = false;
}

std::optional<Accepted> Acceptor::try_accept(uint64_t which) {
  short_of_ = broken_ = 0;
  for (size_t tried = 0; tried < sockets_.size(); ++tried) {
    const size_t index = next_;
    const int listen_socket = sockets_[index];
    next_ = (next_ + 1) % sockets_.size();
    if (!is_among(which, index)) continue;
    for (;;) {
      Accepted accepted;
      accepted.peer.length = sizeof accepted.peer.storage;
      const auto got = static_cast<int>(system_call(SYS_accept4, listen_socket, accepted.peer.get(),
                                                    &accepted.peer.length, SOCK_CLOEXEC));
      if (got >= 0) {
        accepted.fd.reset(got);
        return accepted;
      }
      // The client gave up while it waited, or a pending network error (accept(2)): try the next one.
      const int error = -got;
      if (error == EINTR || error == ECONNABORTED || error == EPROTO) continue;
      if (lacks_room(error))
        short_of_ = error;
      else if (error != EAGAIN && !is_of_the_network(error))
        broken_ = error;
      break;
    }
  }
  return std::nullopt;
}

bool Acceptor::wait(const sigset_t& unblocked, int timeout_ms) {
  register_for_wake();
  epoll_event event{};
  const long events =
      system_call(SYS_epoll_pwait, epoll_.get(), &event, 1, timeout_ms, &unblocked, kKernelSetSize);
  if (events < 0 && events != -EINTR) throw SysError("epoll_pwait", static_cast<int>(-events));
  if (events > 0) next_ = event.data.u64;  // its wake-up is ours alone
  return events >= 0;
}

}  // namespace preforkd
