#include "ipc/channel.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "base/attachment.h"
#include "base/clock.h"
#include "base/error.h"

namespace preforkd {
namespace {

// The kernel lacks memory, or has too many descriptors on their way: a loop that is told at once that there is room, and
// asks again, is not to take a processor for that.
void rest() { sleep_for(kMillisecond); }

}  // namespace

std::pair<UniqueFd, UniqueFd> Channel::make_pair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
    throw SysError("socketpair", errno);
  // A datagram must fit the sender's buffer whole, and the default is less than kMaxDatagram.
  for (int end : ends) {
    int room = kMaxDatagram;
    setsockopt(end, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  }
  std::pair<UniqueFd, UniqueFd> pair(ends[0], ends[1]);
  if (shutdown(pair.first.get(), SHUT_RD) < 0) throw SysError("shutdown of a socketpair", errno);
  return pair;
}

Channel::Sent Channel::send(std::span<const std::byte> first, std::span<const std::byte> second,
                            int descriptor) {
  if (!is_open()) return Sent::kGone;
  iovec parts[2] = {{const_cast<std::byte*>(first.data()), first.size()},
                    {const_cast<std::byte*>(second.data()), second.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = second.empty() ? 1 : 2;
  Attachment along;
  if (descriptor >= 0) along.attach(message, descriptor);
  for (;;) {
    if (sendmsg(fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return Sent::kYes;
    if (errno == EINTR) continue;
    // (ETOOMANYREFS: more descriptors are on their way, from all of this user's processes, than one may have.)
    if (errno == EAGAIN) return Sent::kFull;
    if (errno != ENOBUFS && errno != ENOMEM && errno != ETOOMANYREFS) return Sent::kGone;
    rest();
    return Sent::kFull;
  }
}

Channel::Got Channel::receive(Datagram& datagram) {
  if (!is_open()) return Got::kGone;
  // The real size first: a datagram is at most kMaxDatagram, and nearly all are a few hundred bytes.
  ssize_t size;
  do size = recv(fd(), nullptr, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  while (size < 0 && errno == EINTR);
  // (Without memory now there may be some at the next look: it is still there.)
  auto passes = [] {
    if (errno == EAGAIN) return true;
    if (errno != ENOMEM && errno != ENOBUFS) return false;
    rest();
    return true;
  };
  if (size < 0) return passes() ? Got::kNothing : Got::kGone;
  if (size == 0 || static_cast<size_t>(size) > kMaxDatagram) return Got::kGone;
  datagram.bytes.resize(static_cast<size_t>(size));
  datagram.descriptor.reset();

  iovec part{datagram.bytes.data(), datagram.bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  // Not CMSG_SPACE: its padding has room for a second descriptor, which nobody would close.
  message.msg_controllen = CMSG_LEN(sizeof(int));
  do size = recvmsg(fd(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  if (size < 0 && passes()) return Got::kNothing;
  if (size <= 0) return Got::kGone;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int received;
    std::memcpy(&received, CMSG_DATA(c), sizeof received);
    datagram.descriptor.reset(received);
  }
  return Got::kMessage;
}

}  // namespace preforkd
