// What the fuzzers of addresses share.
#pragma once

#include <netinet/in.h>

#include <string>

#include "base/address.h"
#include "tests/fuzz/fuzz.h"

namespace preforkd::fuzz {

// An operator may copy what is shown into `listen`. (But not an IPv4 address as a proxy wrote it in IPv6: it is shown as it
// came, and listened on as IPv4.)
inline void must_be_writable(const SocketAddress& address, const std::string& shown) {
  const auto* in = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  const bool is_mapped =
      address.storage.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in->sin6_addr);
  std::string error;
  const auto read = parse_listen_address(shown, error);
  must(read.has_value() == error.empty(), "an address, or what was expected", error);
  must(read.has_value() != is_mapped, "what is shown can be written", shown);
}

}  // namespace preforkd::fuzz
