#include "base/backlog.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "base/address.h"
#include "base/error.h"
#include "base/fd.h"

namespace preforkd {
namespace {

// TCP_SYN_RECV and TCP_LISTEN of the kernel; Unix sockets use the same numbers.
constexpr uint32_t kTcpSynReceived = 3, kTcpListen = 10;
constexpr size_t kReplyBytes = 32 * 1024;

struct TcpQuestion {
  nlmsghdr header;
  inet_diag_req_v2 request;
};
struct UnixQuestion {
  nlmsghdr header;
  unix_diag_req request;
};

TcpQuestion tcp_question(uint8_t family, uint32_t state) {
  TcpQuestion q{};
  q.header.nlmsg_len = sizeof q;
  q.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  q.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  q.request.sdiag_family = family;
  q.request.sdiag_protocol = IPPROTO_TCP;
  q.request.idiag_states = 1u << state;
  return q;
}

// All listening ones (inode 0), or the one with this inode.
UnixQuestion unix_question(ino_t inode) {
  UnixQuestion q{};
  q.header.nlmsg_len = sizeof q;
  q.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  q.header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | (inode ? 0 : NLM_F_DUMP));
  q.request.sdiag_family = AF_UNIX;
  q.request.udiag_states = 1u << kTcpListen;
  q.request.udiag_ino = static_cast<uint32_t>(inode);
  q.request.udiag_cookie[0] = q.request.udiag_cookie[1] = INET_DIAG_NOCOOKIE;
  q.request.udiag_show = UDIAG_SHOW_RQLEN;
  return q;
}

void note_tcp(const nlmsghdr* header, std::map<ino_t, Backlog>& found) {
  const auto* m = static_cast<const inet_diag_msg*>(NLMSG_DATA(header));
  found[m->idiag_inode] = {m->idiag_rqueue, m->idiag_wqueue};
}

void note_unix(const nlmsghdr* header, std::map<ino_t, Backlog>& found) {
  const auto* m = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  auto left = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof *m));
  for (auto* a = reinterpret_cast<const rtattr*>(m + 1); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
    if (a->rta_type != UNIX_DIAG_RQLEN) continue;
    const auto* length = static_cast<const unix_diag_rqlen*>(RTA_DATA(a));
    found[m->udiag_ino] = {length->udiag_rqueue, length->udiag_wqueue};
  }
}

// Until there is no more, or `enough` were found. What went wrong is in errno.
template <class Question, class Note>
void ask(const Question& question, Note note, std::map<ino_t, Backlog>& found,
         size_t enough = SIZE_MAX) {
  UniqueFd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink.is_open()) return;
  if (send(netlink.get(), &question, sizeof question, 0) < 0) return;
  bool dump = question.header.nlmsg_flags & NLM_F_DUMP;
  alignas(nlmsghdr) char reply[kReplyBytes];
  for (;;) {
    ssize_t n = recv(netlink.get(), reply, sizeof reply, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    auto left = static_cast<unsigned>(n);
    for (auto* h = reinterpret_cast<const nlmsghdr*>(reply); NLMSG_OK(h, left);
         h = NLMSG_NEXT(h, left)) {
      if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY) return;  // NLMSG_DONE or NLMSG_ERROR
      note(h, found);
    }
    if (!dump || found.size() >= enough) return;
  }
}

}  // namespace

std::optional<Backlog> queued_on(int listen_fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(listen_fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
    return Backlog{info.tcpi_unacked, info.tcpi_sacked};
  struct stat s {};
  if (fstat(listen_fd, &s) < 0) return std::nullopt;
  std::map<ino_t, Backlog> found;
  ask(unix_question(s.st_ino), note_unix, found);
  auto it = found.find(s.st_ino);
  return it == found.end() ? std::nullopt : std::optional(it->second);
}

std::optional<uint32_t> queued_if_known(const std::vector<int>& listen_sockets, uint64_t which) {
  uint32_t sum = 0;
  for (size_t i = 0; i < listen_sockets.size(); ++i) {
    if (!is_among(which, i)) continue;
    errno = 0;
    if (auto backlog = queued_on(listen_sockets[i]))
      sum += backlog->queued;
    else if (lacks_room(errno))  // (that sock_diag is not compiled in, or denied, does not pass)
      return std::nullopt;
  }
  return sum;
}

std::optional<uint32_t> exceeded_on(const std::vector<int>& listen_sockets, uint32_t most) {
  uint64_t sum = 0;
  std::optional<uint32_t> full;
  for (const int fd : listen_sockets) {
    const auto backlog = queued_on(fd);
    if (!backlog) continue;
    sum += backlog->queued;
    if (backlog->queued > backlog->limit) full = backlog->limit;
  }
  return sum > most ? std::optional(most) : full;
}

uint32_t queued_on(const std::vector<int>& listen_sockets, uint64_t which) {
  return queued_if_known(listen_sockets, which).value_or(0);
}

bool shakes_hands(const std::vector<int>& listen_sockets, uint64_t which) {
  std::map<ino_t, Backlog> found;  // those who do have no inode yet: all are 0
  for (size_t i = 0; i < listen_sockets.size() && found.empty(); ++i) {
    if (!is_among(which, i)) continue;
    const SocketAddress own = local_address(listen_sockets[i]);
    const sa_family_t family = own.storage.ss_family;
    if (family != AF_INET && family != AF_INET6) continue;
    TcpQuestion question = tcp_question(static_cast<uint8_t>(family), kTcpSynReceived);
    // (The port is in the same place in both.)
    question.request.id.idiag_sport = reinterpret_cast<const sockaddr_in*>(own.get())->sin_port;
    errno = 0;
    ask(question, note_tcp, found, 1);
    if (found.empty() && lacks_room(errno)) return true;
  }
  return !found.empty();
}

std::map<ino_t, Backlog> queued_by_inode(const std::vector<ino_t>& inodes) {
  std::map<ino_t, Backlog> found;
  if (inodes.empty()) return found;
  ask(tcp_question(AF_INET, kTcpListen), note_tcp, found);
  ask(tcp_question(AF_INET6, kTcpListen), note_tcp, found);
  ask(unix_question(0), note_unix, found);
  std::erase_if(found, [&](const auto& entry) {
    return std::find(inodes.begin(), inodes.end(), entry.first) == inodes.end();
  });
  return found;
}

}  // namespace preforkd
