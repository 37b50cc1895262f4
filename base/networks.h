// Which addresses a list of networks means. Pure: nothing is looked up.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"
#include "base/range_set.h"

namespace preforkd {

// An IP address without its port. An IPv4 client of a socket that takes both is an IPv4 address.
struct IpAddress {
  bool v6 = false;
  std::array<uint8_t, 16> bytes{};  // network order; of IPv4 the first four

  auto operator<=>(const IpAddress&) const = default;
};
std::string to_string(const IpAddress& address);
std::optional<IpAddress> ip_of(const SocketAddress& address);  // nothing: of another family

// Where a client comes from, as far as it can be told from others: an IPv4 address, or the /64 of an IPv6
// address (a household or a machine has at least that many). No two are equal, but for ::ffff:0:0/96's, which
// no client has.
uint64_t source_of(const IpAddress& address);

struct Network {
  IpAddress address;
  uint8_t prefix = 0;  // bits that count; all others are 0

  bool contains(const IpAddress& one) const;
  auto operator<=>(const Network&) const = default;
};

// "10.0.0.0/8", "2001:db8::/32", or one address. On error nothing, and what was expected in `error`.
std::optional<Network> parse_network(std::string_view text, std::string& error);

// Those of a list that parse.
std::vector<Network> parse_networks(const std::vector<std::string>& texts);

// An address's place in a RangeSet: an IPv4 address is ::ffff:0:0/96's, which no client has.
Number128 number_of(const IpAddress& address);
// The addresses that are let in, of which the longest prefix decides; of equal ones, denied is; where none matches,
// `otherwise`. No network of IPv6 matches an IPv4 address.
FlatSet flat_set(const std::vector<Network>& allow, const std::vector<Network>& deny,
                 bool otherwise);

// Who may connect: the longest prefix that matches decides; where none does, everybody may if nobody is
// allowed by name.
class AccessList {
 public:
  AccessList() : AccessList({}, {}) {}
  AccessList(const std::vector<Network>& allow, const std::vector<Network>& deny)
      : flat_(flat_set(allow, deny, allow.empty())) {}

  bool lets_in(const IpAddress& address) const {
    return RangeSet(flat_.data()).contains(number_of(address));
  }
  const FlatSet& flat() const { return flat_; }

 private:
  FlatSet flat_;
};

}  // namespace preforkd
