// The environment of a program per connection, beside the one that Debian's tcpserver gives the same program.
#include <signal.h>

#include <map>
#include <sstream>

#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

using Variables = std::map<std::string, std::string>;

// Those that UCSPI speaks of.
Variables variables_of(const std::string& printed) {
  Variables variables;
  std::istringstream lines(printed);
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find('=');
    const std::string name = line.substr(0, equals);
    if (name == "PROTO" || name.starts_with("TCP")) variables[name] = line.substr(equals + 1);
  }
  return variables;
}

struct Seen {
  Variables variables;
  std::string client_port;
};
Seen seen_by_env(const std::string& address, const std::string& from) {
  Client client(address, from);
  const std::string own = client.own_address();
  return {variables_of(client.read_until_eof()), own.substr(own.rfind(':') + 1)};
}

// One after the other on one port, so that there is nothing that could differ but the client's own.
void the_same_environment() {
  const std::string from = "127.0.0.7";
  Seen here, there;
  int port = 0;
  {
    Server server({PoolText{.serves = "program = [ \"/usr/bin/env\" ];"}});
    port = server.port();
    here = seen_by_env(server.address(), from);
  }
  const std::string address = "127.0.0.1:" + std::to_string(port);
  const pid_t tcpserver = spawn({.argv = {"tcpserver", "-H", "-R", "-l", "0", "127.0.0.1",
                                          std::to_string(port), "/usr/bin/env"}});
  wait_until("tcpserver listens", kPatience,
             [&] { return Client::try_connect(address).has_value(); });
  there = seen_by_env(address, from);
  kill(tcpserver, SIGTERM);
  wait_for_child(tcpserver, kPatience);

  expect_equal("TCPREMOTEPORT", here.variables["TCPREMOTEPORT"], here.client_port);
  expect_equal("tcpserver's", there.variables["TCPREMOTEPORT"], there.client_port);
  int in_both = 0;
  for (const auto& [name, value] : there.variables) {
    if (name == "TCPREMOTEPORT" || !here.variables.contains(name)) continue;
    ++in_both;
    expect_equal(name, here.variables[name], value);
  }
  for (const char* name : {"PROTO", "TCPLOCALIP", "TCPLOCALPORT", "TCPREMOTEIP", "TCPREMOTEPORT"})
    expect(here.variables.contains(name) && there.variables.contains(name),
           std::string(name) + " is in both");
  expect(in_both >= 4, "compared: " + std::to_string(in_both));
}

}  // namespace

Suite tcpserver_suite() { return {"tcpserver", {{"the same environment", the_same_environment}}}; }

}  // namespace preforkd::system_test
