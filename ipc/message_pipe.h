// Messages from a less trusted process to a more trusted one, through a pipe: it carries bytes and no descriptors.
// Through a socket the less trusted could hand over a descriptor whose last close() waits (SO_LINGER, a file system
// of its own), and the kernel would close it in the process that receives, looked at or not.
//
// Each message is one write of at most PIPE_BUF bytes, so whole or not at all, with its size and its number in front.
// Both ends are non-blocking. The reader sees the end of the file when nobody has the pipe open for writing any more.
//
// Who wrote a message is known too, though others may have a copy of the writing end (a handler's preload can leave
// its workers one). From before the write until kMostOnTheWay messages later, the writer holds a record lock (fcntl(2))
// on the pipe, at the place that the hash of the message and its number names. A lock belongs to one process, no child inherits it, and
// the kernel tells the reader whose it is. A writer that has died holds none: what it said last is nobody's, and the
// reader decides by whether that process lives (daemon/generation.cc). A writer may hold more locks than it should,
// which makes each look at them dear: the reader counts what it costs.
#pragma once

#include <sys/types.h>

#include <array>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/fd.h"
#include "ipc/channel.h"

namespace preforkd {

// Bytes of one message at the most.
inline constexpr size_t kMostOfMessage = PIPE_BUF - 2 * sizeof(uint32_t);

// {to read, to write}, closed on exec. Throws SysError.
std::pair<UniqueFd, UniqueFd> make_message_pipe();

// The end of the less trusted. Not thread-safe; a forked child closes the descriptor and does not use it.
class Outbox {
 public:
  Outbox() = default;
  explicit Outbox(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  bool is_open() const { return fd_.is_open(); }
  void close() { fd_.reset(); }

  using Sent = Channel::Sent;
  // One message, made of two parts.
  Sent send(std::span<const std::byte> first, std::span<const std::byte> second = {});
  template <Message T>
  Sent send_struct(const T& message) {
    return send(std::as_bytes(std::span(&message, 1)));
  }

 private:
  // More than a pipe of 64 KiB holds of the smallest report, and the one that is being looked at.
  static constexpr size_t kMostOnTheWay = 256;

  UniqueFd fd_;
  uint32_t number_ = 0;
  std::array<off_t, kMostOnTheWay> claimed_{};  // the places of the last ones, by number
};

// The end of the more trusted.
class Inbox {
 public:
  Inbox() = default;
  explicit Inbox(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  bool is_open() const { return fd_.is_open(); }
  void close() { fd_.reset(); }

  using Got = Channel::Got;
  // kGone: the end, or what nobody sends who keeps to the form above.
  Got receive(std::string& message);
  // Who vouches for this message, the one that was received last; 0: nobody, or nobody any more.
  pid_t sender_of(const std::string& message) const;

 private:
  UniqueFd fd_;
  uint32_t number_ = 0;  // of the last one
};

}  // namespace preforkd
