// Addresses as a user writes them and as the kernel wants them. All of it is pure but local_address():
// host names are looked up by daemon/resolve.h.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>

namespace preforkd {

// One element of a pool's `listen`.
struct ListenAddress {
  enum class Kind { kTcp, kUnix, kSystemd };
  Kind kind = Kind::kTcp;
  std::string host;   // kTcp: numeric or a name, without brackets; "*" is every IPv4 address
  uint16_t port = 0;  // kTcp; 0: the kernel chooses
  std::string path;  // kUnix: the path, or "@name" for the abstract namespace; kSystemd: the FDNAME

  bool operator==(const ListenAddress&) const = default;
};

// "host:port", "[v6]:port", "unix:/path", "unix:@name", "systemd:FDNAME". On error, nothing, and what
// was expected in `error`.
std::optional<ListenAddress> parse_listen_address(std::string_view text, std::string& error);

// A socket address of any family, with its length.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

// What a connected or bound socket has on this side. Of family 0 if it is none.
[[gnu::hot]] SocketAddress local_address(int socket);

// "127.0.0.1:7007", "[::1]:7007", "unix:/path", "unix:@name"; "unix:" for an unnamed one.
std::string to_string(const SocketAddress& address);

}  // namespace preforkd
