#include "template/descriptors.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/address.h"
#include "base/error.h"
#include "base/fd.h"

namespace preforkd {
namespace {

std::string path_of(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

std::string said_of(int fd, const std::string& what) {
  return "descriptor " + std::to_string(fd) + " is " + what;
}

std::vector<int> all_descriptors() {
  std::vector<int> all;
  DIR* const folder = opendir("/proc/self/fd");
  if (!folder) throw SysError("open /proc/self/fd", errno);
  while (const dirent* entry = readdir(folder))
    if (entry->d_name[0] != '.' && std::atoi(entry->d_name) != dirfd(folder))
      all.push_back(std::atoi(entry->d_name));
  closedir(folder);
  std::sort(all.begin(), all.end());
  return all;
}

std::string name_of(int fd) {
  char name[4096];
  const ssize_t size = readlink(path_of(fd).c_str(), name, sizeof name);
  if (size < 0) throw SysError("read " + path_of(fd), errno);
  return {name, static_cast<size_t>(size)};
}

// Each line of /proc/self/fdinfo/FD: visit(line).
template <class Visit>
void each_line_about(int fd, Visit visit) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
  if (!info) throw SysError("open /proc/self/fdinfo/" + std::to_string(fd), errno);
  for (std::string line; std::getline(info, line);) visit(line);
}

bool is_empty(int fd) {
  int waiting = 0;
  return ioctl(fd, FIONREAD, &waiting) < 0 || waiting == 0;
}

// Which socket a Unix socket is connected to: 0 if that cannot be known.
ino_t other_end_of(ino_t socket_inode) {
  const UniqueFd kernel(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!kernel.is_open()) return 0;
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } question{};
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  question.request.sdiag_family = AF_UNIX;
  question.request.udiag_ino = static_cast<uint32_t>(socket_inode);
  question.request.udiag_show = UDIAG_SHOW_PEER;
  question.request.udiag_cookie[0] = question.request.udiag_cookie[1] = ~0u;  // any
  if (send(kernel.get(), &question, sizeof question, 0) < 0) return 0;
  alignas(nlmsghdr) char answer[1024];
  const ssize_t size = recv(kernel.get(), answer, sizeof answer, 0);
  if (size < 0) return 0;
  auto left = static_cast<unsigned>(size);
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
  if (!NLMSG_OK(header, left) || header->nlmsg_type != SOCK_DIAG_BY_FAMILY) return 0;
  const auto* about = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  auto room = static_cast<unsigned>(header->nlmsg_len - NLMSG_LENGTH(sizeof *about));
  const auto* attribute = reinterpret_cast<const rtattr*>(about + 1);
  for (; RTA_OK(attribute, room); attribute = RTA_NEXT(attribute, room))
    if (attribute->rta_type == UNIX_DIAG_PEER)
      return *static_cast<const uint32_t*>(RTA_DATA(attribute));
  return 0;
}

int option_of(int socket, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(socket, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

// Under the number that it has had, whatever it is closed by.
void put_in_place(UniqueFd made, int fd) {
  const int flags = fcntl(fd, F_GETFD);
  if (dup3(made.get(), fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0)
    throw SysError("renew descriptor " + std::to_string(fd), errno);
}

void expect_done(int result, const char* what, int of) {
  if (result < 0)
    throw SysError(std::string(what) + " for descriptor " + std::to_string(of), errno);
}

UniqueFd expect(int fd, const char* what, int of) {
  expect_done(fd, what, of);
  return UniqueFd(fd);
}

// Of the open file, as the one before had them: O_NONBLOCK and the like.
UniqueFd with_flags(UniqueFd made, int flags) {
  fcntl(made.get(), F_SETFL, flags & ~(O_ACCMODE | O_CLOEXEC));
  return made;
}

constexpr int kOfOpen = O_ACCMODE | O_NONBLOCK | O_DIRECT | O_NOATIME | O_DIRECTORY | O_SYNC;

UniqueFd open_again(int fd, int flags) {
  return UniqueFd(open(path_of(fd).c_str(), (flags & kOfOpen) | O_CLOEXEC | O_NOCTTY));
}

// Whether two numbers are of one open file.
bool are_copies(int one, int other, bool is_one_object) {
  const long order = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, one, other);
  if (order >= 0) return order == 0;
  // Without CONFIG_KCMP: what has an inode of its own is one; of a file, where the one is read on the other is, too.
  const off_t at = lseek(one, 0, SEEK_CUR);
  if (at < 0) return is_one_object;
  lseek(one, at + 1, SEEK_SET);
  const bool moved = lseek(other, 0, SEEK_CUR) == at + 1;
  lseek(one, at, SEEK_SET);
  return moved;
}

}  // namespace

std::string SharedDescriptors::look(const std::vector<int>& ours) {
  for (const int fd : all_descriptors()) {
    if (std::find(ours.begin(), ours.end(), fd) != ours.end()) continue;
    Open open;
    struct stat status {};
    open.fd = fd;
    open.flags = fcntl(fd, F_GETFL);
    if (open.flags < 0 || fstat(fd, &status) < 0)
      throw SysError("look at descriptor " + std::to_string(fd), errno);
    open.device = status.st_dev;
    open.inode = status.st_ino;
    open.name = name_of(fd);
    std::string trouble;
    switch (status.st_mode & S_IFMT) {
      case S_IFREG:
      case S_IFDIR:
        trouble = look_at_file(open);
        break;
      case S_IFSOCK:
        trouble = look_at_socket(open);
        break;
      case S_IFIFO:
        if (!is_copy(open)) pipe_ends_.push_back(open);
        break;
      case S_IFCHR:
      case S_IFBLK:
        break;
      default:
        trouble = look_at_unnamed(open);
    }
    if (!trouble.empty()) return trouble;
  }
  const std::string trouble = look_at_pipes();
  return trouble.empty() ? look_at_pairs() : trouble;
}

bool SharedDescriptors::is_copy(const Open& open) {
  const bool has_inode = !open.name.starts_with("anon_inode:");
  for (const Open& other : seen_)
    if (other.inode == open.inode && other.device == open.device && other.flags == open.flags &&
        are_copies(other.fd, open.fd, has_inode)) {
      copies_.emplace_back(open.fd, other.fd);
      return true;
    }
  seen_.push_back(open);
  return false;
}

// What is only written to stays in order when it is shared: each write goes on where the one before has ended.
std::string SharedDescriptors::look_at_file(const Open& open) {
  const bool is_log = (open.flags & O_ACCMODE) == O_WRONLY || open.flags & O_APPEND;
  if (is_log || open.flags & O_PATH || is_copy(open)) return "";
  const UniqueFd again = open_again(open.fd, open.flags);
  if (!again.is_open())
    return said_of(open.fd, open.name + ", which cannot be opened again: " + std::strerror(errno));
  files_.push_back(open);
  return "";
}

std::string SharedDescriptors::look_at_socket(const Open& open) {
  if (option_of(open.fd, SO_ACCEPTCONN) == 1 || is_copy(open)) return "";
  const int family = option_of(open.fd, SO_DOMAIN), type = option_of(open.fd, SO_TYPE);
  SocketAddress peer;
  peer.length = sizeof peer.storage;
  if (family == AF_NETLINK) return said_of(open.fd, "a netlink socket");
  const bool is_connected = getpeername(open.fd, peer.get(), &peer.length) == 0;
  if (family == AF_UNIX && is_connected) {
    const auto* name = reinterpret_cast<const char*>(&peer.storage);
    if (type == SOCK_DGRAM && peer.length > offsetof(sockaddr_un, sun_path)) {
      datagrams_.push_back({open, {name, peer.length}});
      return "";
    }
    socket_ends_.push_back({open, type, other_end_of(open.inode)});
    return "";
  }
  if (is_connected) return said_of(open.fd, "a connection to " + to_string(peer));
  // (One that is being connected, or will be, connects all of them.)
  return said_of(open.fd,
                 type == SOCK_DGRAM ? "a datagram socket" : "a socket that does not listen");
}

std::string SharedDescriptors::look_at_event(const Open& open) {
  if (is_copy(open)) return "";
  Event event{open, 0, false};
  each_line_about(open.fd, [&](const std::string& line) {
    unsigned semaphore = 0;
    std::sscanf(line.c_str(), "eventfd-count: %x", &event.count);
    if (std::sscanf(line.c_str(), "eventfd-semaphore: %u", &semaphore) == 1)
      event.is_semaphore = semaphore != 0;
  });
  events_.push_back(event);
  return "";
}

std::string SharedDescriptors::look_at_poll(const Open& open) {
  if (is_copy(open)) return "";
  Poll poll{open, {}};
  bool has_closed = false;
  each_line_about(open.fd, [&](const std::string& line) {
    int fd = 0;
    unsigned events = 0;
    uint64_t data = 0;
    unsigned long inode = 0;
    const int read =
        std::sscanf(line.c_str(), "tfd: %d events: %x data: %" SCNx64 " pos:%*d ino:%lx", &fd,
                    &events, &data, &inode);
    if (read < 3) return;
    struct stat status {};
    // (Of a number that was closed, whose file somebody else has yet.)
    has_closed |= fstat(fd, &status) < 0 || (read == 4 && status.st_ino != inode);
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    poll.registrations.emplace_back(fd, event);
  });
  if (has_closed) return said_of(open.fd, "an epoll instance that watches what is closed here");
  polls_.push_back(poll);
  return "";
}

std::string SharedDescriptors::look_at_unnamed(const Open& open) {
  const std::string& name = open.name;
  if (name == "anon_inode:[eventfd]") return look_at_event(open);
  if (name == "anon_inode:[eventpoll]") return look_at_poll(open);
  const bool is_shared = name == "anon_inode:[signalfd]" ||
                         name.starts_with("anon_inode:[pidfd]") || name.starts_with("pidfd:");
  if (is_shared) return "";
  const size_t colon = name.find(':');
  std::string kind = name.substr(colon == name.npos ? 0 : colon + 1);
  std::erase_if(kind, [](char c) { return c == '[' || c == ']'; });
  return said_of(open.fd, "of kind " + kind);
}

// Of those that are read from: there is one end of each kind, and it is here.
std::string SharedDescriptors::look_at_pipes() {
  for (const Open& end : pipe_ends_) {
    if ((end.flags & O_ACCMODE) == O_WRONLY) continue;
    std::vector<Open> others;
    std::copy_if(
        pipe_ends_.begin(), pipe_ends_.end(), std::back_inserter(others), [&](const Open& other) {
          return other.fd != end.fd && other.inode == end.inode && other.device == end.device;
        });
    const bool is_pair = (end.flags & O_ACCMODE) == O_RDONLY && others.size() == 1 &&
                         (others[0].flags & O_ACCMODE) == O_WRONLY;
    if (!is_pair) return said_of(end.fd, "the end of somebody else's pipe (" + end.name + ")");
    if (!is_empty(end.fd)) return said_of(end.fd, "a pipe in which something waits");
    pipes_.emplace_back(end, others[0]);
  }
  return "";
}

std::string SharedDescriptors::look_at_pairs() {
  while (!socket_ends_.empty()) {
    const SocketEnd end = socket_ends_.back();
    socket_ends_.pop_back();
    const auto other =
        std::find_if(socket_ends_.begin(), socket_ends_.end(), [&](const SocketEnd& each) {
          return each.inode == end.other_end && each.other_end == end.inode;
        });
    if (other == socket_ends_.end()) {
      SocketAddress peer;
      peer.length = sizeof peer.storage;
      getpeername(end.fd, peer.get(), &peer.length);
      return said_of(end.fd, "a connection to " + to_string(peer));
    }
    if (!is_empty(end.fd) || !is_empty(other->fd))
      return said_of(end.fd, "a pair of sockets in which something waits");
    pairs_.emplace_back(end, *other);
    socket_ends_.erase(other);
  }
  return "";
}

void SharedDescriptors::renew() const {
  for (const Open& file : files_) {
    UniqueFd again = expect(open_again(file.fd, file.flags).release(), "open again", file.fd);
    if (const off_t at = lseek(file.fd, 0, SEEK_CUR); at > 0) lseek(again.get(), at, SEEK_SET);
    put_in_place(std::move(again), file.fd);
  }
  for (const Event& event : events_)
    put_in_place(expect(eventfd(event.count, EFD_CLOEXEC | (event.flags & O_NONBLOCK) |
                                                 (event.is_semaphore ? EFD_SEMAPHORE : 0)),
                        "eventfd", event.fd),
                 event.fd);
  for (const auto& [to_read, to_write] : pipes_) {
    int ends[2];
    expect_done(pipe2(ends, O_CLOEXEC), "pipe", to_read.fd);
    put_in_place(with_flags(UniqueFd(ends[0]), to_read.flags), to_read.fd);
    put_in_place(with_flags(UniqueFd(ends[1]), to_write.flags), to_write.fd);
  }
  for (const auto& [first, second] : pairs_) {
    int ends[2];
    expect_done(socketpair(AF_UNIX, first.type | SOCK_CLOEXEC, 0, ends), "socketpair", first.fd);
    put_in_place(with_flags(UniqueFd(ends[0]), first.flags), first.fd);
    put_in_place(with_flags(UniqueFd(ends[1]), second.flags), second.fd);
  }
  for (const Datagram& datagram : datagrams_) {
    UniqueFd again = expect(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket", datagram.fd);
    // (Without its peer just now: its owner connects it again, as with one that went away.)
    connect(again.get(), reinterpret_cast<const sockaddr*>(datagram.peer.data()),
            static_cast<socklen_t>(datagram.peer.size()));
    put_in_place(with_flags(std::move(again), datagram.flags), datagram.fd);
  }
  for (const Poll& poll : polls_)
    put_in_place(expect(epoll_create1(EPOLL_CLOEXEC), "epoll_create1", poll.fd), poll.fd);
  for (const auto& [fd, of] : copies_)
    put_in_place(expect(fcntl(of, F_DUPFD_CLOEXEC, 0), "dup", fd), fd);
  // Last: what is registered is what the worker has by now.
  for (const Poll& poll : polls_)
    for (auto [fd, event] : poll.registrations)
      expect_done(epoll_ctl(poll.fd, EPOLL_CTL_ADD, fd, &event), "epoll_ctl", fd);
}

}  // namespace preforkd
