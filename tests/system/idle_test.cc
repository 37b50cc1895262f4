// At rest, nothing of preforkd is ever woken.
#include <time.h>

#include <filesystem>
#include <map>
#include <sstream>

#include "base/clock.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

void pause(double seconds) {
  timespec t = to_timespec(from_seconds(seconds));
  nanosleep(&t, nullptr);
}

// Of every task of the daemon and its descendants: context switches, of both kinds.
std::map<std::string, uint64_t> switches(Server& server) {
  std::map<std::string, uint64_t> found;
  for (pid_t pid : server.all_pids())
    for (const auto& task :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      std::istringstream lines(file_text(task.path() / "status"));
      for (std::string line; std::getline(lines, line);)
        if (line.find("ctxt_switches:") != line.npos)
          found[task.path()] += std::stoull(line.substr(line.find(':') + 1));
    }
  return found;
}

// A window of time is what is asked about here, so this one test does wait for time to pass.
void nobody_is_woken() {
  Server server(
      {PoolText{.workers = "min = 3; max = 20; shrink_after = 0.3;",
                .timeouts = "connection = 60.0;"},
       PoolText{.name = "demand",
                .workers = "min = 0; max = 5; min_spare = 0; max_spare = 0; shrink_after = 0.3;"},
       PoolText{.name = "cat", .serves = "program = [ \"/bin/cat\" ];"},
       PoolText{.name = "slow", .serves = unruly("start_ms = 10;")}});
  // After work, not only after the start.
  for (const char* pool : {"echo", "demand", "cat"}) {
    Load load(server.address(pool), 8, short_echo, 5);
    load.join();
    expect_equal("error", load.error(), "");
  }
  server.wait_for("/workers/total", 3, "echo", 20);
  server.wait_for("/workers/total", 0, "demand", 20);
  auto before = switches(server);
  wait_until("a second passes in which nobody is woken", 30, [&] {
    pause(1);
    auto now = switches(server);
    return std::exchange(before, now) == now;
  });
  pause(3);
  auto after = switches(server);
  expect_equal("tasks", after.size(), before.size());
  for (const auto& [task, count] : after)
    expect_equal("switches of " + task + " " + file_text(task + "/comm"), count, before[task]);
}

}  // namespace

Suite idle_suite() { return {"idle", {{"nobody is woken", nobody_is_woken}}}; }

}  // namespace preforkd::system_test
