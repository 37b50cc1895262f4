// Serving: every kind of listen socket, several pools, and figures that are exact at any moment.
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

void echo_over_ipv4() {
  Server server({PoolText{}});
  Client client(server.address());
  expect(client.echoes("hello\n"), "the echo");
}

}  // namespace

Suite serve_suite() { return {"serve", {{"echo over IPv4", echo_over_ipv4}}}; }

}  // namespace preforkd::system_test
