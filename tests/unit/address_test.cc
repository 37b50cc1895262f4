// base/address: addresses as users write them, and back from what the kernel has; and when two of
// them are one (conf/check).
#include "base/address.h"
#include "daemon/resolve.h"

#include <CUnit/CUnit.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdio>
#include <stdexcept>

#include "conf/check.h"

using namespace preforkd;

namespace {

using Kind = ListenAddress::Kind;

void expect_text(const std::string& got, const std::string& wanted) {
  if (got != wanted) std::printf("\n  wanted: %s\n  got:    %s\n", wanted.c_str(), got.c_str());
  CU_ASSERT(got == wanted);
}

void parses() {
  static const struct {
    const char* text;
    ListenAddress wanted;
  } kRows[] = {
      {"127.0.0.1:7007", {Kind::kTcp, "127.0.0.1", 7007, ""}},
      {"127.0.0.1:0", {Kind::kTcp, "127.0.0.1", 0, ""}},
      {"127.0.0.1:00080", {Kind::kTcp, "127.0.0.1", 80, ""}},
      {"*:65535", {Kind::kTcp, "*", 65535, ""}},
      {"localhost:1", {Kind::kTcp, "localhost", 1, ""}},
      {"a-b_c.example.org:1", {Kind::kTcp, "a-b_c.example.org", 1, ""}},
      {"[::1]:80", {Kind::kTcp, "::1", 80, ""}},
      {"[::]:80", {Kind::kTcp, "::", 80, ""}},
      {"[fe80::1%eth0]:80", {Kind::kTcp, "fe80::1%eth0", 80, ""}},
      {"[::ffff:0:127.0.0.1]:80", {Kind::kTcp, "::ffff:0:127.0.0.1", 80, ""}},
      {"unix:/run/a:b c", {Kind::kUnix, "", 0, "/run/a:b c"}},
      {"unix:@name", {Kind::kUnix, "", 0, "@name"}},
      {"systemd:echo.socket", {Kind::kSystemd, "", 0, "echo.socket"}},
  };
  for (const auto& row : kRows) {
    std::string error = "left over";
    auto address = parse_listen_address(row.text, error);
    if (!address) std::printf("\n  %s: %s\n", row.text, error.c_str());
    CU_ASSERT_FATAL(address.has_value());
    CU_ASSERT(*address == row.wanted);
  }
}

void refuses() {
  const std::string forms =
      "expected \"host:port\", \"[v6]:port\", \"unix:/path\" or \"systemd:FDNAME\"";
  const std::string port = "the port must be a number from 0 to 65535";
  const std::string unix_forms = "expected \"unix:/path\" or \"unix:@name\"";
  const struct {
    std::string text, error;
  } rows[] = {
      {"", forms},
      {"80", forms},
      {":80", forms},
      {"[]:80", forms},
      {"a b:80", forms},
      {"http://a:80", forms},
      {std::string(254, 'a') + ":80", forms},
      {"a:", port},
      {"a:65536", port},
      {"a:-1", port},
      {"a:+1", port},
      {"a: 1", port},
      {"a:1x", port},
      {"a:http", port},
      {"127.0.0.1:99999999999999999999", port},
      {"::1:80", "an IPv6 address is written in brackets: \"[::1]:80\""},
      {"[127.0.0.1]:80", "no IPv6 address stands in the brackets"},
      {"[::ffff:10.0.0.1]:80", "an IPv4 address is written as IPv4, as in \"10.0.0.1:80\""},
      {"[::g]:80", "no IPv6 address stands in the brackets"},
      {"[::1]80", forms},
      {"unix:", unix_forms},
      {"unix:/", unix_forms},
      {"unix:@", unix_forms},
      {"unix:relative", unix_forms},
      {"unix:/" + std::string(107, 'a'), "a Unix socket's path has at most 107 characters"},
      {"systemd:", "expected \"systemd:FDNAME\""},
      {"systemd:" + std::string(256, 'a'), "expected \"systemd:FDNAME\""},
      {std::string("a\0:80", 5), "unexpected NUL"},
  };
  for (const auto& row : rows) {
    std::string error;
    bool parsed = parse_listen_address(row.text, error).has_value();
    if (parsed) std::printf("\n  accepted: %s\n", row.text.c_str());
    CU_ASSERT(!parsed);
    if (error != row.error) std::printf("\n  %s", row.text.c_str());
    expect_text(error, row.error);
  }
}

void resolves() {
  static const struct {
    const char *text, *wanted;
  } kRows[] = {
      {"127.0.0.1:7007", "127.0.0.1:7007"},
      {"*:80", "0.0.0.0:80"},
      {"[0:0::1]:80", "[::1]:80"},
      {"[::]:0", "[::]:0"},
      {"unix:/run/a.sock", "unix:/run/a.sock"},
      {"unix:@name", "unix:@name"},
  };
  for (const auto& row : kRows) {
    std::string error;
    auto address = parse_listen_address(row.text, error);
    CU_ASSERT_FATAL(address.has_value());
    expect_text(to_string(resolve(*address)), row.wanted);
  }
  // The longest path fills sun_path but for the NUL.
  std::string longest = "unix:/" + std::string(106, 'a'), error;
  auto address = parse_listen_address(longest, error);
  CU_ASSERT_FATAL(address.has_value());
  SocketAddress socket_address = resolve(*address);
  expect_text(to_string(socket_address), longest);
  CU_ASSERT(socket_address.length == sizeof(sockaddr_un));
}

void does_not_resolve() {
  std::string said;
  try {
    resolve(
        {Kind::kTcp, "fe80::1%no-such-interface", 80, ""});  // answered without asking the network
  } catch (const std::runtime_error& e) {
    said = e.what();
  }
  CU_ASSERT(said.starts_with("resolve fe80::1%no-such-interface: "));
}

void other_addresses() {
  SocketAddress address;
  expect_text(to_string(address), "?");
  address.storage.ss_family = AF_UNIX;
  address.length = offsetof(sockaddr_un, sun_path);
  expect_text(to_string(address), "unix:");
  address.length = sizeof(sa_family_t);
  expect_text(to_string(address), "unix:");
}

void same_addresses() {
  static const struct {
    const char *a, *b;
    bool same;
  } kRows[] = {
      {"127.0.0.1:7007", "127.0.0.1:07007", true},
      {"127.0.0.1:7007", "127.1:7007", true},
      {"127.0.0.1:7007", "127.0.0.1:7008", false},
      {"*:1", "0.0.0.0:1", true},
      {"*:1", "[::]:1", false},
      {"[::1]:1", "[0000:0:0::1]:1", true},
      {"[2001:DB8::1]:1", "[2001:db8:0::1]:1", true},
      {"[fe80::1%eth0]:1", "[fe80::1%eth1]:1", false},
      {"[fe80::1%eth0]:1", "[fe80:0::1%eth0]:1", true},
      {"LocalHost:1", "localhost:1", true},
      {"localhost:1", "127.0.0.1:1", false},
      {"unix:/a//b", "unix:/a/c/../b", true},
      {"unix:/a", "unix:@/a", false},
      {"unix:@a", "unix:@A", false},
      {"unix:@a//b", "unix:@a/b", false},
      {"systemd:a", "systemd:a", true},
      {"systemd:a", "systemd:b", false},
  };
  for (const auto& row : kRows) {
    std::string error;
    auto a = parse_listen_address(row.a, error), b = parse_listen_address(row.b, error);
    CU_ASSERT_FATAL(a && b);
    bool same = normalized(*a) == normalized(*b);
    if (same != row.same) std::printf("\n  %s and %s\n", row.a, row.b);
    CU_ASSERT(same == row.same);
  }
}

}  // namespace

void add_address_tests() {
  static const struct {
    const char* name;
    void (*run)();
  } kTests[] = {
      {"parses", parses},
      {"refuses, and says what was expected", refuses},
      {"resolves what is numeric", resolves},
      {"says what does not resolve", does_not_resolve},
      {"prints any address", other_addresses},
      {"knows two ways to write one address", same_addresses},
  };
  CU_pSuite suite = CU_add_suite("address", nullptr, nullptr);
  for (const auto& test : kTests) CU_add_test(suite, test.name, test.run);
}
