#include "worker/client_end.h"

#include <linux/tcp.h>  // (glibc's tcp_info ends before what is needed)
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstddef>

namespace preforkd {
namespace {

// Of include/net/tcp_states.h, which the kernel gives to nobody.
enum State { kClose = 7, kCloseWait = 8, kLastAck = 9, kClosing = 11 };

ClientEnd end_of(const tcp_info& info) {
  if (info.tcpi_state == kClose) {
    // The FIN is counted among what was acknowledged, and not among what was sent.
    const uint64_t sent = info.tcpi_bytes_sent - info.tcpi_bytes_retrans;
    return info.tcpi_bytes_acked <= sent ? ClientEnd::kGone : ClientEnd::kNot;
  }
  const bool finished =
      info.tcpi_state == kCloseWait || info.tcpi_state == kLastAck || info.tcpi_state == kClosing;
  return finished && info.tcpi_bytes_sent == 0 ? ClientEnd::kFinished : ClientEnd::kNot;
}

}  // namespace

ClientEnd client_end(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
    return size > offsetof(tcp_info, tcpi_bytes_retrans) ? end_of(info) : ClientEnd::kNot;
  int domain = 0;
  size = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 || domain != AF_UNIX)
    return ClientEnd::kNot;
  pollfd one{fd, 0, 0};
  const bool hung_up = poll(&one, 1, 0) == 1 && (one.revents & (POLLHUP | POLLERR)) != 0;
  return hung_up ? ClientEnd::kFinished : ClientEnd::kNot;
}

}  // namespace preforkd
