#include "daemon/socket_file.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>

#include "base/fd.h"

namespace preforkd {

namespace {

constexpr uint8_t kBoundOnly = 7;  // TCP_CLOSE, which Linux uses for all kinds of sockets

struct Question {
  nlmsghdr header;
  unix_diag_req request;
};

Question question_of(uint32_t states, uint16_t flags) {
  Question question{};
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  question.request.sdiag_family = AF_UNIX;
  question.request.udiag_states = states;
  question.request.udiag_cookie[0] = question.request.udiag_cookie[1] = ~0u;  // any
  question.request.udiag_show = UDIAG_SHOW_VFS;
  return question;
}

std::optional<unix_diag_vfs> file_in(const nlmsghdr* header) {
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  auto left = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof *message));
  for (auto* a = reinterpret_cast<const rtattr*>(message + 1); RTA_OK(a, left);
       a = RTA_NEXT(a, left))
    if (a->rta_type == UNIX_DIAG_VFS) return *static_cast<const unix_diag_vfs*>(RTA_DATA(a));
  return std::nullopt;
}

// `found` is called for each answer, until it returns true or there is none left.
template <class Found>
void ask(const Question& question, Found found) {
  const UniqueFd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink.is_open() || send(netlink.get(), &question, sizeof question, 0) < 0) return;
  alignas(nlmsghdr) char reply[32 * 1024];  // as much as the kernel puts into one
  do {
    ssize_t size = 0;
    do size = recv(netlink.get(), reply, sizeof reply, 0);
    while (size < 0 && errno == EINTR);
    if (size <= 0) return;
    auto left = static_cast<unsigned>(size);
    for (auto* h = reinterpret_cast<const nlmsghdr*>(reply); NLMSG_OK(h, left);
         h = NLMSG_NEXT(h, left))
      if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || found(h)) return;
  } while (question.header.nlmsg_flags & NLM_F_DUMP);
}

}  // namespace

std::optional<uint32_t> inode_of_file(int unix_socket) {
  struct stat s {};
  if (fstat(unix_socket, &s) < 0) return std::nullopt;
  Question question = question_of(~0u, 0);
  question.request.udiag_ino = static_cast<uint32_t>(s.st_ino);
  std::optional<uint32_t> inode;
  ask(question, [&](const nlmsghdr* header) {
    if (const auto file = file_in(header)) inode = file->udiag_vfs_ino;
    return true;
  });
  return inode;
}

// (A device as the kernel has it: 12 and 20 bits.)
bool is_about_to_listen(dev_t device, ino_t inode) {
  bool is_bound = false;
  ask(question_of(1u << kBoundOnly, NLM_F_DUMP), [&](const nlmsghdr* header) {
    const auto file = file_in(header);
    is_bound |= file && file->udiag_vfs_ino == static_cast<uint32_t>(inode) &&
                file->udiag_vfs_dev >> 20 == major(device) &&
                (file->udiag_vfs_dev & 0xfffff) == minor(device);
    return is_bound;
  });
  return is_bound;
}

}  // namespace preforkd
