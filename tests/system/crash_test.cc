// Workers that clients crash, that are killed by the dozen, and that cannot start: what others notice of it.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <thread>

#include "base/clock.h"
#include "supervisor/breaker.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

const std::string kSixteen = "min = 4; max = 16;";

// A first byte 'c' aborts whoever serves it; anything else is answered by a line.
constexpr char kPython[] = R"(import os
import preforkd

for connection in preforkd.connections():
    if connection.socket.recv(1) == b"c":
        os.abort()
    connection.sendall(b"done\n")
)";
constexpr char kPerl[] = R"(use POSIX ();
use Preforkd;

Preforkd->serve(sub {
    my $handle = $_[0]->handle;
    sysread $handle, my $first, 1;
    POSIX::abort() if $first eq 'c';
    print $handle "done\n";
});
)";
constexpr char kShell[] =
    R"(program = [ "/bin/sh", "-c", "read x; [ $x = c ] && kill -ABRT $$; echo done" ];)";

void expect_never_degraded(Server& server) {
  expect_equal("state", server.pool()["state"], "running");
  expect_equal("said to be degraded", occurrences(server.log(), "degraded"), 0u);
}

// Three times 40 at once, of whom each crashes its worker; the next client is served as soon as the last of them is
// dead. (A row of deaths had it wait for minutes.)
void expect_served_after_crashes(const std::string& serves) {
  Server server({PoolText{.serves = serves, .workers = kSixteen}});
  const std::string address = server.address();
  for (int round = 1; round <= 3; ++round) {
    std::vector<Client> crashers;
    for (int i = 0; i < 40; ++i) crashers.emplace_back(address).send("c\n");
    Client next(address);
    next.send("p\n");
    expect(!next.read_line(20).empty(), "the next one is served");
    for (Client& crasher : crashers) expect(crasher.is_ended(), "it sees the end");
    server.wait_for("/lifetime/crashed", 40 * round);
  }
  expect_never_degraded(server);
}

void crashes_of_a_handler() { expect_served_after_crashes(unruly()); }
void crashes_of_a_program() { expect_served_after_crashes(kShell); }
void crashes_of_a_script(const char* interpreter, const char* text) {
  if (are_sanitized()) return skip("no interpreter with sanitizers");
  TestFolder folder;
  const std::string script = folder.write("script", text);
  expect_served_after_crashes("serve = [ \"" + std::string(interpreter) + "\", \"" + script +
                              "\" ];");
}
void crashes_in_python() { crashes_of_a_script("python3", kPython); }
void crashes_in_perl() { crashes_of_a_script("perl", kPerl); }

// All at once, and all again, and once more.
void idle_ones_killed_at_once() {
  constexpr int kWorkers = 100;
  Server server({PoolText{.workers = "min = 100; max = 120;"}});
  for (int round = 1; round <= 3; ++round) {
    server.wait_for("/workers/idle", kWorkers);
    for (pid_t pid : server.worker_pids()) kill(pid, SIGKILL);
    server.wait_until("it is at min again", kPatience, [&] {
      const Json pool = server.pool();
      return pool["lifetime"]["crashed"] == kWorkers * round &&
             pool["workers"]["total"] >= kWorkers;
    });
  }
  expect_never_degraded(server);
}

// To the pool each of their connections has failed.
void killed_while_clients_reset() {
  constexpr uint64_t kWorkers = 16, kVictims = 100;
  Server server({PoolText{.workers = "min = 16; max = 32;"}});
  Load load(server.address(), 16, [](Client& client) {
    client.echoes("hello\n");
    client.reset();
  });
  std::mt19937 random(1);
  for (uint64_t victims = 0; victims < kVictims;) {
    const std::vector<pid_t> workers = server.worker_pids();
    if (workers.empty() || kill(workers[random() % workers.size()], SIGKILL) != 0) continue;
    ++victims;
    server.wait_until("it is at min again", kPatience, [&] {
      const Json pool = server.pool();
      return pool["lifetime"]["crashed"] >= victims && pool["workers"]["total"] >= kWorkers;
    });
  }
  load.stop();
  server.wait_for("/connections/active", 0);
  expect(server.pool()["connections"]["failed"] > 0, "connections were reset");
  expect_never_degraded(server);
}

// As fast as they are forked each is idle for a moment, and dies. There is no row of it, and no flood.
void dying_as_soon_as_idle() {
  Server server({PoolText{.serves = unruly("die_after_ms = 1;"), .workers = "min = 2; max = 4;"},
                 PoolText{.name = "good"}},
                {.wait_until_ready = false});
  const Nanoseconds began = monotonic_now();
  const uint64_t credit = Breaker::credit(4);
  auto forked = [&] {
    const Json pools = server.status()["pools"];
    return pools.empty() ? 0 : server.pool()["lifetime"]["forked"].get<uint64_t>();
  };
  server.wait_until("what may be forked at once is", 60, [&] { return forked() > credit + 250; });
  const uint64_t now = forked();
  expect(now <= credit + 4 * 4 + (monotonic_now() - began) / Breaker::kPerUsed,
         "not faster than they are made good: " + std::to_string(now));
  server.wait_for_log("more workers died, the last one killed by signal 14");
  const double elapsed = to_seconds(monotonic_now() - began);
  expect(static_cast<double>(occurrences(server.log(), "\n")) < 130 + 2 * elapsed,
         "the log is not flooded: " + std::to_string(occurrences(server.log(), "\n")));
  expect(Client(server.address("good")).echoes("hello\n"), "the other pool serves");
}

// A pool whose workers were killed, and whose others crash in their start until end() is called.
struct LoopOfCrashes {
  TestFolder folder;
  const std::string crash = folder.file("crash");
  Server server;

  explicit LoopOfCrashes(const std::string& workers)
      : server(
            {PoolText{.serves = unruly("crash_while = \"" + crash + "\";"), .workers = workers}}) {
    folder.write("crash", "");
    for (pid_t pid : server.worker_pids()) kill(pid, SIGKILL);
    server.wait_for("/state", "degraded");
  }
  void end() const { unlink(crash.c_str()); }
};

// A pause after each, said once; and once that it is over.
void a_loop_of_crashes() {
  LoopOfCrashes loop("min = 8; max = 16;");
  Server& server = loop.server;
  expect_contains("reason", server.pool()["reason"], "workers died in a row");
  const uint64_t forked = server.pool()["lifetime"]["forked"];
  server.wait_until("it goes on to try", kPatience,
                    [&] { return server.pool()["lifetime"]["forked"] >= forked + 3; });
  expect(server.pool()["lifetime"]["forked"] < forked + 10, "one after the other");
  loop.end();
  server.wait_for("/state", "running", "echo", 2 * kPatience);
  server.wait_for("/workers/total", 8);
  server.wait_for_log("recovered");
  expect_equal("degraded", occurrences(server.log(), "degraded"), 1u);
  expect_equal("recovered", occurrences(server.log(), "recovered"), 1u);
}

// Where each worker leaves as soon as it has served, having served is what ends the pauses.
void a_loop_of_crashes_under_load() {
  LoopOfCrashes loop("min = 1; max = 4; connections = 1;");
  Server& server = loop.server;
  const uint64_t forked = server.pool()["lifetime"]["forked"];
  server.wait_until("the pauses are above a second", kPatience,
                    [&] { return server.pool()["lifetime"]["forked"] >= forked + 4; });
  std::vector<Client> waiting;
  for (int i = 0; i < 40; ++i) waiting.emplace_back(server.address());
  loop.end();
  const Nanoseconds began = monotonic_now();
  for (Client& client : waiting) {
    pid_serving(client);
    client.half_close();
  }
  const double took = to_seconds(monotonic_now() - began);
  expect(took < kPatience, "40 are not served one a pause: " + std::to_string(took) + " s");
}

}  // namespace

Suite crash_suite() {
  return {"crash",
          {{"crashes of a handler", crashes_of_a_handler},
           {"crashes of a program", crashes_of_a_program},
           {"crashes in Python", crashes_in_python},
           {"crashes in Perl", crashes_in_perl},
           {"idle ones killed at once", idle_ones_killed_at_once},
           {"killed while clients reset", killed_while_clients_reset},
           {"dying as soon as idle", dying_as_soon_as_idle},
           {"a loop of crashes", a_loop_of_crashes},
           {"a loop of crashes, under load", a_loop_of_crashes_under_load}}};
}

}  // namespace preforkd::system_test
