// One end of a SOCK_SEQPACKET pair between two preforkd processes: whole datagrams, descriptors with
// them, and an end of file when the other side is gone. Non-blocking on both ends; not thread-safe.
#pragma once

#include <sys/types.h>

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

class Channel {
 public:
  static constexpr size_t kMaxDatagram = 256 * 1024;

  Channel() = default;
  explicit Channel(UniqueFd fd) : fd_(std::move(fd)) {}

  // A connected pair, CLOEXEC and non-blocking. Throws SysError.
  static std::pair<UniqueFd, UniqueFd> make_pair();

  int fd() const { return fd_.get(); }
  bool is_open() const { return fd_.is_open(); }
  void close() { fd_.reset(); }
  // Each datagram that is sent to this end from now on names the process that sent it, as the kernel knows it. Throws
  // SysError.
  void name_senders();

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
    pid_t sender = 0;  // after name_senders()

    // The fixed-size message in it, if that is what it is.
    template <class T>
    std::optional<T> as() const {
      if (bytes.size() != sizeof(T)) return std::nullopt;
      T message;
      bytes.copy(reinterpret_cast<char*>(&message), sizeof message);
      return message;
    }
  };
  enum class Got { kMessage, kNothing, kGone };
  Got receive(Datagram& datagram);

 private:
  UniqueFd fd_;
  bool names_senders_ = false;
};

}  // namespace preforkd
