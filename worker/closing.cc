#include "worker/closing.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/log.h"
#include "base/system_call.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kAnswerTime = 100 * kMillisecond;
constexpr int kRoom = 1 << 20;  // as far as net.core.wmem_max goes

enum class Input { kEnded, kOpen, kMore };

// Throws away what is unread, up to so many pieces. Ended: there comes nothing more.
[[gnu::noinline]] Input throw_away(int connection, int pieces) {
  char unread[1024];
  for (; pieces > 0; --pieces) {
    const ssize_t got = recv(connection, unread, sizeof unread, MSG_DONTWAIT);
    if (got > 0 || (got < 0 && errno == EINTR)) continue;
    return got < 0 && errno == EAGAIN ? Input::kOpen : Input::kEnded;
  }
  return Input::kMore;
}

// Before an exec each page is copied that is written to, and each of libc's that is touched first costs a fault: so it
// keeps to the stack, and to system calls. 0, or an error.
int send_to_closer(int end, const ClosingMessage& message, int connection) {
  if (end < 0) return EBADF;
  alignas(cmsghdr) volatile char control[CMSG_SPACE(sizeof(int))];
  auto* along = reinterpret_cast<cmsghdr*>(const_cast<char*>(control));
  along->cmsg_len = CMSG_LEN(sizeof(int));
  along->cmsg_level = SOL_SOCKET;
  along->cmsg_type = SCM_RIGHTS;
  *reinterpret_cast<volatile int*>(CMSG_DATA(along)) = connection;
  iovec part{const_cast<ClosingMessage*>(&message), sizeof message};
  msghdr whole{};
  whole.msg_iov = &part;
  whole.msg_iovlen = 1;
  whole.msg_control = connection < 0 ? nullptr : along;
  whole.msg_controllen = connection < 0 ? 0 : sizeof control;
  long sent;
  do sent = system_call(SYS_sendmsg, end, &whole, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent == -EINTR);
  return sent < 0 ? static_cast<int>(-sent) : 0;
}

}  // namespace

ClosingPairs::ClosingPairs(bool for_programs) : first(Pair::make()) {
  if (for_programs) second = Pair::make();
}

ClosingPairs::Pair ClosingPairs::Pair::make() {
  Pair pair;
  int ends[2];
  // Of messages, so that a descriptor cannot be parted from what is said of it; and connected, so that it has an end.
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
    log_warning(std::string("socket pair for who closes connections: ") + std::strerror(errno) +
                ": what a client goes on sending can cost it the end of its answer");
    return pair;
  }
  setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &kRoom, sizeof kRoom);
  pair.workers.reset(ends[0]);
  pair.closers.reset(ends[1]);
  return pair;
}

bool is_to_be_reset(int connection) {
  linger wish{};
  socklen_t size = sizeof wish;
  return getsockopt(connection, SOL_SOCKET, SO_LINGER, &wish, &size) == 0 && wish.l_onoff &&
         wish.l_linger == 0;
}

void Closing::end(int connection) const {
  // The client that ends first, as those of most line protocols do, costs this one call.
  if (throw_away(connection, 4) == Input::kEnded) return;
  if (is_to_be_reset(connection) || shutdown(connection, SHUT_WR) < 0) return;
  if (send_to_closer(first_, {ClosingMessage::kOver, 0}, connection)) throw_away(connection, 64);
}

void Closing::lend(int connection) const {
  const auto pid = static_cast<pid_t>(system_call(SYS_getpid));
  const int error = send_to_closer(second_, {ClosingMessage::kLent, pid}, connection);
  if (error == EAGAIN || error == ETOOMANYREFS)  // of all of this user's, on their way
    send_to_closer(first_, {ClosingMessage::kLookAtLent, 0}, -1);
}

std::optional<bool> Closing::client_ended_before(pid_t pid,
                                                 const std::function<void()>& when_asked) const {
  const Nanoseconds until = monotonic_now() + kAnswerTime;
  ClosingMessage answer;
  while (recv(first_, &answer, sizeof answer, MSG_DONTWAIT) > 0) {
  }
  if (send_to_closer(first_, {ClosingMessage::kProgramFailed, pid}, -1)) return std::nullopt;
  when_asked();
  for (Nanoseconds now; (now = monotonic_now()) < until;) {
    pollfd answered{first_, POLLIN, 0};
    const timespec rest = to_timespec(until - now);
    if (ppoll(&answered, 1, &rest, nullptr) <= 0) continue;  // (a signal, or it is time)
    const ssize_t size = recv(first_, &answer, sizeof answer, MSG_DONTWAIT);
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) break;
    if (size == sizeof answer && answer.pid == pid)
      return answer.what == ClosingMessage::kClientEnded;
  }
  return std::nullopt;
}

void Closing::answer(pid_t pid, bool client_ended) const {
  send_to_closer(first_,
                 {client_ended ? ClosingMessage::kClientEnded : ClosingMessage::kClientStayed, pid},
                 -1);
}

bool Closing::program_ended(pid_t pid) const {
  const int error = send_to_closer(first_, {ClosingMessage::kProgramEnded, pid}, -1);
  return error != EAGAIN && error != ENOBUFS && error != ENOMEM;
}

}  // namespace preforkd
