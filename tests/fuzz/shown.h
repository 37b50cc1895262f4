// What the fuzzers of addresses share.
#pragma once

#include <optional>
#include <string>

#include "base/address.h"
#include "base/networks.h"
#include "tests/fuzz/fuzz.h"

namespace preforkd::fuzz {

inline std::optional<ListenAddress> parse(const std::string& text) {
  std::string error;
  auto address = parse_listen_address(text, error);
  must(address.has_value() == error.empty(), "an address, or what was expected", error);
  return address;
}

// An operator may copy what is shown into `listen`. (But not an IPv4 address that came as IPv6: it is shown as it came, and
// listened on as IPv4.)
inline void must_be_writable(const SocketAddress& address, const std::string& shown) {
  const bool is_mapped = address.storage.ss_family == AF_INET6 && !ip_of(address)->v6;
  must(parse(shown).has_value() != is_mapped, "what is shown can be written", shown);
}

}  // namespace preforkd::fuzz
