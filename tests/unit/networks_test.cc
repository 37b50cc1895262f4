// base/networks: lists of networks, and which of two that match decides.
#include "base/networks.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

SocketAddress socket_address(const char* text) {
  SocketAddress address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    address.length = sizeof *v4;
  } else {
    CU_ASSERT_EQUAL_FATAL(inet_pton(AF_INET6, text, &v6->sin6_addr), 1);
    v6->sin6_family = AF_INET6;
    address.length = sizeof *v6;
  }
  return address;
}
IpAddress ip(const char* text) { return *ip_of(socket_address(text)); }

void networks_are_read() {
  std::string error;
  for (const char* good : {"10.0.0.0/8", "0.0.0.0/0", "192.0.2.7", "192.0.2.7/32", "::/0",
                           "2001:db8::/32", "::1", "fe80::/10", "2001:db8:0:8000::/49"})
    CU_ASSERT_TRUE(parse_network(good, error).has_value());
  static const struct {
    const char *text, *said;
  } kBad[] = {
      {"", "expected an address or a network"},
      {"example.org/8", "expected an address or a network"},
      {"10.0.0/8", "expected an address or a network"},
      {"10.0.0.0/", "expected a prefix from 0 to 32"},
      {"10.0.0.0/33", "expected a prefix from 0 to 32"},
      {"10.0.0.0/-1", "expected a prefix from 0 to 32"},
      {"10.0.0.0/08", "expected a prefix from 0 to 32"},
      {"10.0.0.0/8x", "expected a prefix from 0 to 32"},
      {"10.0.0.0/255.0.0.0", "expected a prefix from 0 to 32"},
      {"::/129", "expected a prefix from 0 to 128"},
      {"10.1.2.3/8", "did you mean \"10.0.0.0/8\"?"},
      {"2001:db8::1/32", "did you mean \"2001:db8::/32\"?"},
      {"[::1]/128", "expected an address or a network"},
      {"::ffff:10.0.0.5", "expected an IPv4 address as IPv4"},
      {"::ffff:0:0/96", "expected an IPv4 address as IPv4"},
  };
  for (const auto& row : kBad) {
    error.clear();
    CU_ASSERT_FALSE(parse_network(row.text, error).has_value());
    const bool said = error.find(row.said) != error.npos;
    if (!said) std::printf("\n  %s: %s\n", row.text, error.c_str());
    CU_ASSERT_TRUE(said);
  }
}

void networks_contain() {
  static const struct {
    const char *network, *address;
    bool inside;
  } kRows[] = {
      {"10.0.0.0/8", "10.255.255.255", true},
      {"10.0.0.0/8", "11.0.0.0", false},
      {"10.0.0.0/9", "10.127.0.1", true},
      {"10.0.0.0/9", "10.128.0.1", false},
      {"192.0.2.7", "192.0.2.7", true},
      {"192.0.2.7", "192.0.2.6", false},
      {"0.0.0.0/0", "255.255.255.255", true},
      {"::/0", "2001:db8::1", true},
      {"::/0", "10.0.0.1", false},
      {"0.0.0.0/0", "::1", false},
      {"2001:db8::/33", "2001:db8:7fff::", true},
      {"2001:db8::/33", "2001:db8:8000::", false},
      {"10.0.0.0/8", "::ffff:10.1.2.3", true},  // an IPv4 client of a socket for both
  };
  std::string error;
  for (const auto& row : kRows) {
    const bool inside = parse_network(row.network, error)->contains(ip(row.address));
    if (inside != row.inside) std::printf("\n  %s in %s\n", row.address, row.network);
    CU_ASSERT_EQUAL(inside, row.inside);
  }
}

void the_longest_prefix_decides() {
  const AccessList all{};
  CU_ASSERT_TRUE(all.lets_in(ip("192.0.2.1")) && all.lets_in(ip("::1")));
  const AccessList some{parse_networks({"10.0.0.0/8", "10.1.2.3"}),
                        parse_networks({"10.1.0.0/16"})};
  CU_ASSERT_TRUE(some.lets_in(ip("10.2.0.0")));
  CU_ASSERT_FALSE(some.lets_in(ip("10.1.0.0")));
  CU_ASSERT_TRUE(some.lets_in(ip("10.1.2.3")));
  CU_ASSERT_FALSE(some.lets_in(ip("192.0.2.1")));  // nobody named it
  CU_ASSERT_FALSE(some.lets_in(ip("::1")));
  const AccessList but_one{{}, parse_networks({"2001:db8::/32"})};
  CU_ASSERT_FALSE(but_one.lets_in(ip("2001:db8::1")));
  CU_ASSERT_TRUE(but_one.lets_in(ip("2001:db9::1")));
  CU_ASSERT_TRUE(but_one.lets_in(ip("10.0.0.1")));
}

void sources() {
  CU_ASSERT_EQUAL(source_of(ip("2001:db8::1")), source_of(ip("2001:db8::ffff:1")));
  CU_ASSERT_NOT_EQUAL(source_of(ip("2001:db8::1")), source_of(ip("2001:db8:0:1::1")));
  CU_ASSERT_EQUAL(source_of(ip("10.0.0.1")), source_of(ip("::ffff:10.0.0.1")));
  CU_ASSERT_NOT_EQUAL(source_of(ip("10.0.0.1")), source_of(ip("10.0.0.2")));
  CU_ASSERT_FALSE(ip_of(SocketAddress{}).has_value());
}

}  // namespace

void add_networks_tests() {
  static const unit::Test kTests[] = {
      {"networks are read", networks_are_read},
      {"networks contain", networks_contain},
      {"the longest prefix decides", the_longest_prefix_decides},
      {"sources", sources},
  };
  unit::add_suite("networks", kTests);
}
