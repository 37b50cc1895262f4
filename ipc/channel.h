// One end of a SOCK_SEQPACKET pair from a more trusted preforkd process to a less trusted one: whole datagrams,
// descriptors with them, and an end of file when the other side is gone. Non-blocking on both ends; not thread-safe.
//
// It leads in one direction. The sender's end is shut down for reading before anybody else has the other one, and stays
// so: the kernel refuses what the other side would send (EPIPE), in its own process, and with it the descriptors that
// the sender would otherwise have to close (ipc/message_pipe.h says why that matters, and leads the other way).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace preforkd {

// Sent as it lies in memory, so without padding: that would tell whoever is trusted less what lay there before.
template <class T>
concept Message = std::has_unique_object_representations_v<T>;

// The fixed-size message in some bytes, if that is what they are.
template <Message T>
std::optional<T> message_in(const std::string& bytes) {
  if (bytes.size() != sizeof(T)) return std::nullopt;
  T message;
  bytes.copy(reinterpret_cast<char*>(&message), sizeof message);
  return message;
}

class Channel {
 public:
  static constexpr size_t kMaxDatagram = 256 * 1024;

  Channel() = default;
  explicit Channel(UniqueFd fd) : fd_(std::move(fd)) {}

  // {to send, to receive}: connected, CLOEXEC and non-blocking. Throws SysError.
  static std::pair<UniqueFd, UniqueFd> make_pair();

  int fd() const { return fd_.get(); }
  bool is_open() const { return fd_.is_open(); }
  void close() { fd_.reset(); }

  enum class Sent { kYes, kFull, kGone };
  // Sends one datagram, made of two parts, with at most one descriptor (-1: none).
  Sent send(std::span<const std::byte> first, std::span<const std::byte> second = {},
            int descriptor = -1);
  template <Message T>
  Sent send_struct(const T& message, int descriptor = -1) {
    return send(std::as_bytes(std::span(&message, 1)), {}, descriptor);
  }

  struct Datagram {
    std::string bytes;
    UniqueFd descriptor;

    template <Message T>
    std::optional<T> as() const {
      return message_in<T>(bytes);
    }
  };
  enum class Got { kMessage, kNothing, kGone };
  Got receive(Datagram& datagram);

 private:
  UniqueFd fd_;
};

}  // namespace preforkd
