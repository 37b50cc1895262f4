// A pool of the handler `diary` (tests/system/handlers), which does as its clients say, and what several suites ask of it.
#pragma once

#include <string>

#include "tests/system/harness.h"

namespace preforkd::system_test {

inline const std::string kDiary = "handler = \"@HANDLERS@/diary.so\";";

inline std::string ask(Client& client, const std::string& order) {
  client.send(order + "\n");
  return client.read_line();
}

// Clients on this machine have all of 127.0.0.0/8 to come from.
inline Client from(const std::string& source, const std::string& address) {
  return Client(address, source);
}

inline void expect_rejected(Server& server, const std::string& reason, int count) {
  server.wait_for("/connections/rejected_by/" + reason, count);
}
inline void expect_well(Server& server, const std::string& greeting = "") {
  Client client(server.address());
  client.send(greeting);
  expect(!ask(client, "pid").empty(), "it serves");
  Json pool = server.pool();
  expect_equal("state", pool["state"], "running");
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
}

}  // namespace preforkd::system_test
