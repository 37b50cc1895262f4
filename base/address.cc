#include "base/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>

namespace preforkd {
namespace {

constexpr size_t kUnixPathMax = sizeof(sockaddr_un::sun_path) - 1;

std::optional<ListenAddress> parse_named(ListenAddress::Kind kind, std::string_view path,
                                         std::string& error) {
  if (kind == ListenAddress::Kind::kUnix) {
    if (path.size() < 2 || (path.front() != '/' && path.front() != '@'))
      return error = "expected \"unix:/path\" or \"unix:@name\"", std::nullopt;
    if (path.size() > kUnixPathMax)
      return error =
                 "a Unix socket's path has at most " + std::to_string(kUnixPathMax) + " characters",
             std::nullopt;
  } else if (path.empty() || path.size() > 255) {
    return error = "expected \"systemd:FDNAME\"", std::nullopt;
  }
  ListenAddress address;
  address.kind = kind;
  address.path = path;
  return address;
}

}  // namespace

std::optional<ListenAddress> parse_listen_address(std::string_view text, std::string& error) {
  constexpr std::string_view kUnixPrefix = "unix:", kSystemdPrefix = "systemd:";
  if (text.find('\0') != text.npos) return error = "unexpected NUL", std::nullopt;
  if (text.starts_with(kUnixPrefix))
    return parse_named(ListenAddress::Kind::kUnix, text.substr(kUnixPrefix.size()), error);
  if (text.starts_with(kSystemdPrefix))
    return parse_named(ListenAddress::Kind::kSystemd, text.substr(kSystemdPrefix.size()), error);

  error = "expected \"host:port\", \"[v6]:port\", \"unix:/path\" or \"systemd:FDNAME\"";
  size_t colon = text.rfind(':');
  if (colon == text.npos) return std::nullopt;
  std::string_view host = text.substr(0, colon), port = text.substr(colon + 1);
  bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty() || host.size() > 253) return std::nullopt;

  ListenAddress address;
  address.host = host;
  in6_addr v6;
  // An interface ("%eth0") is resolve()'s business.
  std::string numeric(host.substr(0, host.find('%')));
  if (bracketed != (inet_pton(AF_INET6, numeric.c_str(), &v6) == 1))
    return error = bracketed ? "no IPv6 address stands in the brackets"
                             : "an IPv6 address is written in brackets: \"[" + std::string(host) +
                                   "]:" + std::string(port) + "\"",
           std::nullopt;
  if (bracketed && IN6_IS_ADDR_V4MAPPED(&v6))
    return error = "an IPv4 address is written as IPv4, as in \"10.0.0.1:80\"", std::nullopt;
  if (host != "*" && !bracketed &&
      host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") !=
          host.npos)
    return std::nullopt;
  auto [end, code] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (code != std::errc() || end != port.data() + port.size() || port.empty())
    return error = "the port must be a number from 0 to 65535", std::nullopt;
  error.clear();
  return address;
}

SocketAddress local_address(int socket) {
  SocketAddress address;
  for (const bool again : {true, false}) {
    address.length = sizeof address.storage;
    if (getsockname(socket, address.get(), &address.length) == 0) return address;
    if (!again || errno != ENOBUFS) break;  // there may be one now
  }
  address.length = 0;
  return address;
}

std::string to_string(const SocketAddress& address) {
  char text[INET6_ADDRSTRLEN] = "";
  switch (address.storage.ss_family) {
    case AF_INET: {
      const auto* in = reinterpret_cast<const sockaddr_in*>(&address.storage);
      inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
      return std::string(text) + ":" + std::to_string(ntohs(in->sin_port));
    }
    case AF_INET6: {
      const auto* in = reinterpret_cast<const sockaddr_in6*>(&address.storage);
      inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
      return "[" + std::string(text) + "]:" + std::to_string(ntohs(in->sin6_port));
    }
    case AF_UNIX: {
      const auto* un = reinterpret_cast<const sockaddr_un*>(&address.storage);
      size_t size = address.length > offsetof(sockaddr_un, sun_path)
                        ? address.length - offsetof(sockaddr_un, sun_path)
                        : 0;
      if (size == 0) return "unix:";
      if (un->sun_path[0] == '\0') return "unix:@" + std::string(un->sun_path + 1, size - 1);
      return "unix:" + std::string(un->sun_path, strnlen(un->sun_path, size));
    }
    default:
      return "?";
  }
}

}  // namespace preforkd
