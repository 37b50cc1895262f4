#include "ipc/message_pipe.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace preforkd {
namespace {

struct Header {
  uint32_t size, number;
};

// FNV-1a with a finaliser, as a file offset that is never 0.
off_t place_of(uint32_t number, std::span<const std::byte> first,
               std::span<const std::byte> second) {
  uint64_t hash = (0xcbf29ce484222325 ^ number) * 0x100000001b3;
  for (auto part : {first, second})
    for (std::byte b : part) hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3;
  hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15;
  return static_cast<off_t>((hash >> 2) | 1);
}

struct flock lock_at(off_t place, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = place;
  lock.l_len = 1;
  return lock;
}

void set_lock(int fd, off_t place, short type) {
  struct flock lock = lock_at(place, type);
  fcntl(fd, F_SETLK, &lock);  // not to be had: the message will not be believed
}

ssize_t read_some(int fd, void* to, size_t size) {
  ssize_t n;
  do n = read(fd, to, size);
  while (n < 0 && errno == EINTR);
  return n;
}

}  // namespace

std::pair<UniqueFd, UniqueFd> make_message_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) throw SysError("pipe", errno);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Outbox::Sent Outbox::send(std::span<const std::byte> first, std::span<const std::byte> second) {
  if (!is_open() || first.size() + second.size() > kMostOfMessage) return Sent::kGone;
  const Header header{static_cast<uint32_t>(first.size() + second.size()), number_};
  const iovec parts[3] = {{const_cast<Header*>(&header), sizeof header},
                          {const_cast<std::byte*>(first.data()), first.size()},
                          {const_cast<std::byte*>(second.data()), second.size()}};
  const off_t place = place_of(number_, first, second);
  set_lock(fd(), place, F_WRLCK);
  ssize_t n;
  do n = writev(fd(), parts, second.empty() ? 2 : 3);
  while (n < 0 && errno == EINTR);
  if (n < 0) {
    const int error = errno;
    set_lock(fd(), place, F_UNLCK);
    return error == EAGAIN || error == ENOMEM ? Sent::kFull : Sent::kGone;
  }
  off_t& claimed = claimed_[number_++ % kMostOnTheWay];
  if (claimed) set_lock(fd(), claimed, F_UNLCK);
  claimed = place;
  return Sent::kYes;
}

Inbox::Got Inbox::receive(std::string& message) {
  if (!is_open()) return Got::kGone;
  Header header{};
  const ssize_t n = read_some(fd(), &header, sizeof header);
  if (n < 0 && errno == EAGAIN) return Got::kNothing;
  if (n != sizeof header || header.size == 0 || header.size > kMostOfMessage) return Got::kGone;
  number_ = header.number;
  message.resize(header.size);
  return read_some(fd(), message.data(), header.size) == static_cast<ssize_t>(header.size)
             ? Got::kMessage
             : Got::kGone;
}

pid_t Inbox::sender_of(const std::string& message) const {
  struct flock lock = lock_at(place_of(number_, std::as_bytes(std::span(message)), {}), F_WRLCK);
  if (fcntl(fd(), F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK) return 0;
  return lock.l_pid;
}

}  // namespace preforkd
