// That leaks would be found: each process of a sanitized build looks for its own when it ends, and every test
// fails on what it says (Server's destructor). A worker does not end by exit(): one is made to look.
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

bool looks_for_leaks() {
  if (!are_sanitized()) skip("only the sanitizers look for leaks");
  return are_sanitized();
}

std::string found_by_worker(Server& server) {
  Client client(server.address());
  client.send("l");
  return client.read_line();
}

void each_process_tells() {
  if (!looks_for_leaks()) return;
  const std::string leaks = std::filesystem::absolute(built("tests/system/handlers/leaks.so"));
  // The library needs what it comes before; and a check of the handler that fails would be the end.
  const std::string options = "verify_asan_link_order=0:exitcode=0";
  Server server({PoolText{.serves = unruly()}}, {.in_child = [&] {
                  setenv("LD_PRELOAD", leaks.c_str(), 1);
                  setenv("ASAN_OPTIONS", options.c_str(), 1);
                }});
  server.forgive_reports();
  expect_equal("a worker", found_by_worker(server), "1");
  Outcome ctl = run({"env", "LD_PRELOAD=" + leaks, "ASAN_OPTIONS=" + options, built("preforkctl"),
                     "--socket", server.socket(), "status"});
  expect_contains("preforkctl", ctl.err, "ERROR: LeakSanitizer");

  std::set<std::string> expected;
  for (pid_t pid : {server.pid(), server.supervisor(), server.control()})
    expected.insert("==" + std::to_string(pid) + "==ERROR: LeakSanitizer: detected memory leaks");
  server.signal(SIGTERM);
  server.wait_exit();
  std::istringstream log(server.log());
  for (std::string line; std::getline(log, line);)
    std::erase_if(expected, [&](const auto& said) { return line.find(said) != line.npos; });
  for (const std::string& line : expected) expect(false, "not in the log: " + line);
}

void workers_have_none() {
  if (!looks_for_leaks()) return;
  Server server(
      {PoolText{.serves = unruly(), .workers = "min = 1; max = 1; min_spare = 0; max_spare = 0;"}});
  for (int i = 0; i < 50; ++i) {
    Client client(server.address());
    expect(pid_serving(client) > 0, "served");
  }
  expect_equal("found", found_by_worker(server), "0");
}

}  // namespace

Suite leaks_suite() {
  return {"leaks",
          {{"each process tells", each_process_tells}, {"workers have none", workers_have_none}}};
}

}  // namespace preforkd::system_test
