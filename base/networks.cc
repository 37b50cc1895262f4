#include "base/networks.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

namespace preforkd {
namespace {

constexpr unsigned kMappedBits = 96;  // of ::ffff:0:0/96

int bits_of(const IpAddress& address) { return address.v6 ? 128 : 32; }

bool same_prefix(const IpAddress& a, const IpAddress& b, int bits) {
  const auto whole = static_cast<size_t>(bits / 8);
  if (std::memcmp(a.bytes.data(), b.bytes.data(), whole) != 0) return false;
  const int rest = bits % 8;
  return rest == 0 || (a.bytes[whole] ^ b.bytes[whole]) >> (8 - rest) == 0;
}

// The same with all bits behind the first `prefix` cleared.
IpAddress masked(IpAddress address, int prefix) {
  for (int bit = prefix; bit < bits_of(address); ++bit)
    address.bytes[static_cast<size_t>(bit / 8)] &= static_cast<uint8_t>(~(0x80 >> bit % 8));
  return address;
}

std::optional<IpAddress> parse_ip(std::string_view text) {
  IpAddress address;
  const std::string copy(text);
  if (inet_pton(AF_INET, copy.c_str(), address.bytes.data()) == 1) return address;
  address.v6 = true;
  if (inet_pton(AF_INET6, copy.c_str(), address.bytes.data()) == 1) return address;
  return std::nullopt;
}

uint64_t word_of(const uint8_t* bytes, size_t count) {
  uint64_t word = 0;
  for (size_t i = 0; i < count; ++i) word = word << 8 | bytes[i];
  return word;
}

}  // namespace

std::string to_string(const IpAddress& address) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(address.v6 ? AF_INET6 : AF_INET, address.bytes.data(), text, sizeof text);
  return text;
}

std::optional<IpAddress> ip_of(const SocketAddress& address) {
  IpAddress ip;
  if (address.storage.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&address.storage);
    std::memcpy(ip.bytes.data(), &in->sin_addr, sizeof in->sin_addr);
    return ip;
  }
  if (address.storage.ss_family != AF_INET6) return std::nullopt;
  const auto* in = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  if (IN6_IS_ADDR_V4MAPPED(&in->sin6_addr)) {
    std::memcpy(ip.bytes.data(), &in->sin6_addr.s6_addr[12], 4);
    return ip;
  }
  ip.v6 = true;
  std::memcpy(ip.bytes.data(), &in->sin6_addr, sizeof in->sin6_addr);
  return ip;
}

uint64_t source_of(const IpAddress& address) {
  const Number128 number = number_of(address);
  return address.v6 ? number.high : number.low;
}

bool Network::contains(const IpAddress& one) const {
  return one.v6 == address.v6 && same_prefix(one, address, prefix);
}

std::optional<Network> parse_network(std::string_view text, std::string& error) {
  const size_t slash = text.find('/');
  const auto address = parse_ip(text.substr(0, slash));
  if (!address) {
    error = "expected an address or a network, as in \"10.0.0.0/8\" or \"2001:db8::/32\"";
    return std::nullopt;
  }
  constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (address->v6 && std::equal(kMapped.begin(), kMapped.end(), address->bytes.begin())) {
    error = "expected an IPv4 address as IPv4, as in \"10.0.0.0/8\"";
    return std::nullopt;
  }
  int prefix = bits_of(*address);
  if (slash != text.npos) {
    const std::string_view digits = text.substr(slash + 1);
    const auto [end, wrong] = std::from_chars(digits.data(), digits.data() + digits.size(), prefix);
    const bool number = wrong == std::errc{} && end == digits.data() + digits.size() &&
                        !digits.starts_with('-') && (digits == "0" || !digits.starts_with('0'));
    if (!number || prefix > bits_of(*address)) {
      error =
          "expected a prefix from 0 to " + std::to_string(bits_of(*address)) + " after the \"/\"";
      return std::nullopt;
    }
  }
  Network network{masked(*address, prefix), static_cast<uint8_t>(prefix)};
  if (network.address != *address) {
    error = "expected no bits behind the prefix; did you mean \"" + to_string(network.address) +
            "/" + std::to_string(network.prefix) + "\"?";
    return std::nullopt;
  }
  return network;
}

std::vector<Network> parse_networks(const std::vector<std::string>& texts) {
  std::vector<Network> networks;
  std::string ignored;
  for (const std::string& text : texts)
    if (auto network = parse_network(text, ignored)) networks.push_back(*network);
  return networks;
}

Number128 number_of(const IpAddress& address) {
  if (!address.v6) return {0, uint64_t{0xffff} << 32 | word_of(address.bytes.data(), 4)};
  return {word_of(address.bytes.data(), 8), word_of(address.bytes.data() + 8, 8)};
}

FlatSet flat_set(const std::vector<Network>& allow, const std::vector<Network>& deny,
                 bool otherwise) {
  std::vector<Block> blocks;
  blocks.reserve(1 + allow.size() + deny.size());
  // Of what networks of IPv6 say around it, nothing is true of IPv4.
  blocks.push_back({number_of(IpAddress{}), kMappedBits, otherwise});
  for (const auto* networks : {&allow, &deny})
    for (const Network& n : *networks)
      blocks.push_back({number_of(n.address), n.address.v6 ? n.prefix : kMappedBits + n.prefix,
                        networks == &allow});
  return flatten(std::move(blocks), otherwise);
}

}  // namespace preforkd
