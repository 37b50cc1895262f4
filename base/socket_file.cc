#include "base/socket_file.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/fd.h"

namespace preforkd {

std::optional<uint32_t> inode_of_file(int unix_socket) {
  struct stat s {};
  const UniqueFd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink.is_open() || fstat(unix_socket, &s) < 0) return std::nullopt;
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } question{};
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  question.request.sdiag_family = AF_UNIX;
  question.request.udiag_states = ~0u;
  question.request.udiag_ino = static_cast<uint32_t>(s.st_ino);
  question.request.udiag_cookie[0] = question.request.udiag_cookie[1] = ~0u;  // any
  question.request.udiag_show = UDIAG_SHOW_VFS;
  if (send(netlink.get(), &question, sizeof question, 0) < 0) return std::nullopt;
  alignas(nlmsghdr) char reply[4096];
  ssize_t size = 0;
  do size = recv(netlink.get(), reply, sizeof reply, 0);
  while (size < 0 && errno == EINTR);
  const auto* header = reinterpret_cast<const nlmsghdr*>(reply);
  if (size < 0 || !NLMSG_OK(header, static_cast<unsigned>(size)) ||
      header->nlmsg_type != SOCK_DIAG_BY_FAMILY)
    return std::nullopt;
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  auto left = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof *message));
  for (auto* a = reinterpret_cast<const rtattr*>(message + 1); RTA_OK(a, left);
       a = RTA_NEXT(a, left))
    if (a->rta_type == UNIX_DIAG_VFS)
      return static_cast<const unix_diag_vfs*>(RTA_DATA(a))->udiag_vfs_ino;
  return std::nullopt;
}

}  // namespace preforkd
