#include "worker/proxy_protocol.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>

namespace preforkd {
namespace {

std::nullopt_t wrong(std::string& error, const char* text) {
  error = text;
  return std::nullopt;
}

// `bytes`: 4 of IPv4, 16 of IPv6, in network order.
SocketAddress address_of(int family, const void* bytes, uint16_t port) {
  SocketAddress address;
  if (family == AF_INET) {
    auto* in = reinterpret_cast<sockaddr_in*>(&address.storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    std::memcpy(&in->sin_addr, bytes, sizeof in->sin_addr);
    address.length = sizeof *in;
  } else {
    auto* in = reinterpret_cast<sockaddr_in6*>(&address.storage);
    in->sin6_family = AF_INET6;
    in->sin6_port = htons(port);
    std::memcpy(&in->sin6_addr, bytes, sizeof in->sin6_addr);
    address.length = sizeof *in;
  }
  return address;
}

std::optional<SocketAddress> parse_address(int family, std::string_view ip, uint16_t port) {
  uint8_t bytes[16];
  if (ip.find('\0') != ip.npos) return std::nullopt;  // inet_pton would see what is before it
  if (inet_pton(family, std::string(ip).c_str(), bytes) != 1) return std::nullopt;
  return address_of(family, bytes, port);
}

std::optional<uint16_t> port_of(std::string_view digits) {
  uint16_t port = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, bad] = std::from_chars(digits.data(), end, port);
  if (bad != std::errc{} || stop != end || (digits.size() > 1 && digits[0] == '0'))
    return std::nullopt;
  return port;
}

// Up to the next space, which goes with it; with `last` all that is left.
std::string_view take_word(std::string_view& rest, bool last = false) {
  const size_t space = last ? rest.npos : rest.find(' ');
  const std::string_view word = rest.substr(0, space);
  rest.remove_prefix(space == rest.npos ? rest.size() : space + 1);
  return word;
}

uint16_t big_endian(std::string_view bytes, size_t at) {
  return static_cast<uint16_t>(static_cast<uint8_t>(bytes[at]) << 8 |
                               static_cast<uint8_t>(bytes[at + 1]));
}

// The two addresses and two ports of version 2, `size` bytes an address.
ProxyHeader addresses_of(int family, std::string_view bytes, size_t size) {
  const auto one = [&](size_t at, size_t port_at) {
    return address_of(family, bytes.data() + at, big_endian(bytes, port_at));
  };
  return {one(0, 2 * size), one(size, 2 * size + 2)};
}

}  // namespace

std::optional<ProxyHeader> parse_proxy_line(std::string_view line, std::string& error) {
  if (!line.starts_with("PROXY ")) return wrong(error, "it does not begin with one");
  if (!line.ends_with("\r\n") || line.size() > kProxyLongest1)
    return wrong(error, "no end of line within 107 bytes");
  std::string_view rest = line.substr(6, line.size() - 8);
  if (rest == "UNKNOWN" || rest.starts_with("UNKNOWN ")) return ProxyHeader{};
  const std::string_view protocol = take_word(rest);
  if (protocol != "TCP4" && protocol != "TCP6")
    return wrong(error, "expected TCP4, TCP6 or UNKNOWN");
  const int family = protocol == "TCP4" ? AF_INET : AF_INET6;
  const std::string_view from = take_word(rest), to = take_word(rest), from_port = take_word(rest),
                         to_port = take_word(rest, /*last=*/true);
  const auto source_port = port_of(from_port), destination_port = port_of(to_port);
  if (!source_port || !destination_port) return wrong(error, "expected two ports");
  ProxyHeader header{parse_address(family, from, *source_port),
                     parse_address(family, to, *destination_port)};
  if (!header.source || !header.destination) return wrong(error, "expected two addresses");
  return header;
}

std::optional<size_t> proxy_block_size(std::string_view fixed, std::string& error) {
  if (fixed.size() < kProxyFixed2 || !fixed.starts_with(kProxySignature))
    return wrong(error, "it does not begin with one");
  if (static_cast<uint8_t>(fixed[12]) >> 4 != 2) return wrong(error, "expected version 1 or 2");
  const size_t size = kProxyFixed2 + big_endian(fixed, 14);
  if (size > kProxyLongest2) return wrong(error, "longer than 16 KiB");
  return size;
}

std::optional<ProxyHeader> parse_proxy_block(std::string_view block, std::string& error) {
  const auto size = proxy_block_size(block, error);
  if (!size) return std::nullopt;
  if (*size != block.size()) return wrong(error, "not as long as it says");
  const uint8_t command = static_cast<uint8_t>(block[12]) & 0xf;
  const uint8_t family = static_cast<uint8_t>(block[13]);
  if (command > 1) return wrong(error, "expected LOCAL or PROXY");
  if (command == 0) return ProxyHeader{{}, {}, true};  // whatever stands there
  if (family >> 4 > 3 || (family & 0xf) > 2) return wrong(error, "of no known address family");
  const std::string_view bytes = block.substr(kProxyFixed2);
  // Address family and transport: 0x11 is TCP over IPv4, 0x21 over IPv6. What is neither cannot be a client of
  // ours; the connection's own addresses are to be used (section 2.2).
  const size_t address = family == 0x11 ? 4 : family == 0x21 ? 16 : 0;
  if (address == 0) return ProxyHeader{};
  if (bytes.size() < 2 * address + 4) return wrong(error, "too short for its addresses");
  return addresses_of(family == 0x11 ? AF_INET : AF_INET6, bytes, address);
}

}  // namespace preforkd
