// Upgrades in place: the same process, sockets and connections with another binary, or the old one again.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/installation.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

const std::vector<PoolText> kPools = {
    {.listen = "\"127.0.0.1:0\", \"unix:@DIR@/echo.sock\"",
     .workers = "min = 3; max = 20; shrink_after = 600.0;"},
    {.name = "cat", .serves = "program = [ \"/bin/cat\" ];", .workers = "min = 2; max = 20;"}};

void the_same_process() {
  Installation installed;
  Server server(config_of(kPools), {.program = installed.preforkd()});
  Client busy(server.address()), program(server.address("cat"));
  expect(busy.echoes("before\n") && program.echoes("before\n"), "echo");
  expect_equal("set", server.ctl({"set", "echo", "min=5"}).code, 0);
  const Json before = server.status();
  const pid_t supervisor = server.supervisor(), control = server.control();
  for (int round = 0; round < 3; ++round) {
    installed.install(built("preforkd"));
    Outcome upgrade = server.ctl({"upgrade"});
    expect_equal("exit code of upgrade: " + upgrade.err, upgrade.code, 0);
    expect(busy.echoes("after\n") && program.echoes("after\n"), "both go on");
    expect(Client(server.address("echo", 1)).echoes("hello\n"), "new clients are served");
  }
  Json after = server.status();
  expect_equal("pid", after["pid"], before["pid"]);
  expect_equal("the supervisor", server.supervisor(), supervisor);
  expect_equal("listen", after["pools"][0]["listen"], before["pools"][0]["listen"]);
  expect_equal("min", after["pools"][0]["limits"]["min"], 5);
  expect(after["uptime_seconds"] >= before["uptime_seconds"], "uptime goes on");
  expect_equal("failed", after["pools"][0]["connections"]["failed"], 0);
  server.wait_until("control is of the new binary", kPatience,
                    [&] { return server.control() != control; });
  // What the new image adopted it can also end, replace and reload.
  kill(server.supervisor(), SIGKILL);
  server.wait_for("/generation", 2);
  server.wait_for("/state", "running");
  expect_equal("recycle", server.ctl({"recycle", "cat"}).code, 0);
  busy.half_close();
  program.half_close();
  expect(busy.is_ended() && program.is_ended(), "both finish");
  server.wait_for("/connections/active", 0);
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(), 0);
}

// Binaries that fail in the rehearsal: nothing has happened.
void what_cannot_rehearse() {
  Installation installed;
  Server server(config_of(kPools), {.program = installed.preforkd()});
  Client busy(server.address());
  expect(busy.echoes("before\n"), "echo");
  for (const char* binary : {"/bin/false", "/bin/true", "/bin/echo", "/bin/cat", "/etc/passwd"}) {
    installed.install(binary);
    Answer answer = server.request("POST", "/v1/upgrade");
    expect_equal(std::string("status with ") + binary, answer.status, 409);
    expect(busy.echoes("after\n"), "the busy one goes on");
    expect(Client(server.address()).echoes("hello\n"), "new clients are served");
  }
  expect_equal("upgrades", occurrences(server.log(), "upgrading:"), 0u);
}

void what_fails_after_the_exec() {
  Installation installed;
  Server server(config_of(kPools), {.program = installed.preforkd()});
  Client busy(server.address()), program(server.address("cat"));
  expect(busy.echoes("before\n") && program.echoes("before\n"), "echo");
  const struct {
    const char *image, *reason;
  } kFailing[] = {{"tests/system/images/crashes", "crashed"},
                  {"tests/system/images/exits", "ended"},
                  {"tests/system/images/hangs", "hung"},
                  {"tests/system/images/throws", "as it was made to"}};
  for (const auto& row : kFailing) {
    installed.install(built(row.image));
    Answer answer = server.request("POST", "/v1/upgrade");
    expect_equal("status", answer.status, 409);
    expect_contains("the reason", answer.body, row.reason);
    expect_equal("pid", server.status()["pid"], server.pid());
    expect(busy.echoes("after\n") && program.echoes("after\n"), "both go on");
    expect(Client(server.address("echo", 1)).echoes("hello\n"), "new clients are served");
  }
  installed.install(built("preforkd"));
  expect_equal("then it works", server.request("POST", "/v1/upgrade").status, 200);
  expect(busy.echoes("after\n"), "the busy one goes on");
}

// Control is replaced a moment after an upgrade. Whatever is asked until then is answered, and what happens to a
// second upgrade is no business of the first.
void one_after_the_other() {
  Installation installed;
  Server server(config_of(kPools), {.program = installed.preforkd()});
  Client busy(server.address());
  expect(busy.echoes("before\n"), "echo");
  for (int round = 0; round < 2; ++round) {
    const pid_t control = server.control();
    installed.install(built("preforkd"));
    expect_equal("upgrade", server.request("POST", "/v1/upgrade").status, 200);
    int reloads = 0;
    server.wait_until("control is of the new binary", kPatience, [&] {
      Outcome reload = server.ctl({"reload"});
      if (reload.code != 0) throw Failure(reload.err);
      // Quiet for a moment, so that it can be replaced.
      if (++reloads == 20)
        server.wait_until("it is replaced", kPatience, [&] { return server.control() != control; });
      return server.control() != control;
    });
  }
  installed.install(built("preforkd"));
  expect_equal("upgrade", server.request("POST", "/v1/upgrade").status, 200);
  installed.install(built("tests/system/images/lingers"));
  Answer refused = server.request("POST", "/v1/upgrade");
  expect_equal("one that fails slowly: " + refused.body, refused.status, 409);
  expect_contains("the reason", refused.body, "the rehearsal: exited with status 1");
  expect(busy.echoes("after\n"), "the busy one goes on");
  expect(Client(server.address()).echoes("hello\n"), "new clients are served");
}

void upgrade_by_signal(Server& server, const Installation& installed) {
  const size_t before = occurrences(server.log(), "upgraded from");
  server.signal(SIGUSR2);
  server.wait_until("it is upgraded", kPatience,
                    [&] { return occurrences(server.log(), "upgraded from") > before; });
  expect(std::filesystem::exists(installed.preforkd()), "the binary is there");
}

// waitpid() tells of a stop once, and it was the image before that heard it.
void with_stopped_processes() {
  Installation installed;
  Server server({PoolText{.workers = "min = 2; max = 20;", .timeouts = "drain = 1.0;"}},
                {.program = installed.preforkd()});
  const pid_t control = server.control();
  kill(control, SIGSTOP);
  upgrade_by_signal(server, installed);
  server.wait_until("another control is there", kPatience,
                    [&] { return server.control() > 0 && server.control() != control; });
  expect_equal("it answers", server.request("GET", "/v1/status").status, 200);

  Client busy(server.address());
  expect(busy.echoes("before\n"), "echo");
  const pid_t old = server.supervisor();
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  kill(old, SIGSTOP);
  upgrade_by_signal(server, installed);
  expect(busy.is_ended(), "the drain ends for its worker");
  server.wait_until("the old supervisor is gone", kPatience, [&] { return !is_running(old); });
  expect(Client(server.address()).echoes("hello\n"), "new clients are served");
}

// A pool that fails again and again is tried again by the next image, too.
void with_a_degraded_pool() {
  Installation installed;
  TestFolder folder;
  const std::string program = folder.write("cat", "#!/bin/cat\n", 0755);
  Server server(
      {PoolText{}, PoolText{.name = "cat", .serves = "program = [ \"" + program + "\" ];"}},
      {.program = installed.preforkd()});
  unlink(program.c_str());
  kill(server.supervisor("cat"), SIGKILL);
  server.wait_until("nothing is left of it", kPatience, [&] {
    const Json pool = server.pool("cat");
    return pool["state"] == "degraded" && pool["generations"].empty();
  });
  upgrade_by_signal(server, installed);
  folder.write("cat", "#!/bin/cat\n", 0755);
  server.wait_for("/state", "running", "cat");
}

// Limits that its supervisor has not acknowledged before the upgrade: they are in force, and the client is told so.
void with_a_question() {
  Installation installed;
  Server server(config_of(kPools), {.program = installed.preforkd()});
  const pid_t control = server.control();
  kill(server.supervisor(), SIGSTOP);
  Outcome set;
  {
    std::jthread asking([&] { set = server.ctl({"set", "echo", "min=4"}); });
    server.wait_for("/limits/min", 4);
    upgrade_by_signal(server, installed);
  }
  kill(server.supervisor(), SIGCONT);
  expect_equal("set: " + set.err, set.code, 0);
  server.wait_until("control is of the new binary", kPatience,
                    [&] { return server.control() != control; });
  server.wait_for("/workers/total", 4);
}

void under_load() {
  Installation installed;
  Server server(config_of(kPools), {.program = installed.preforkd()});
  Load load(server.address(), 6), programs(server.address("cat"), 2);
  for (int round = 0; round < 10; ++round) {
    const uint64_t done = load.done();
    installed.install(built(round % 4 == 3 ? "tests/system/images/crashes" : "preforkd"));
    server.wait_until("the upgrade is taken", kPatience,
                      [&] { return server.request("POST", "/v1/upgrade").status != 503; });
    server.wait_until("the load goes on", kPatience, [&] { return load.done() > done + 20; });
  }
  load.stop();
  programs.stop();
  expect_equal("error", load.error() + programs.error(), "");
  server.wait_for("/connections/active", 0);
  server.wait_for("/connections/served", load.done());
  server.wait_for("/connections/served", programs.done(), "cat");
  // (Their lines may wait for the next log process.)
  server.wait_until("ten are said to begin, and eight to be done", kPatience, [&] {
    const std::string log = server.log();
    if (occurrences(log, "upgrading: executing") == 10 && occurrences(log, "upgraded from") == 8)
      return true;
    throw Failure(log);
  });
}

}  // namespace

Suite upgrade_suite() {
  return {"upgrade",
          {{"the same process", the_same_process},
           {"what cannot rehearse", what_cannot_rehearse},
           {"what fails after the exec", what_fails_after_the_exec},
           {"one after the other", one_after_the_other},
           {"with stopped processes", with_stopped_processes},
           {"with a degraded pool", with_a_degraded_pool},
           {"with a question", with_a_question},
           {"under load", under_load}}};
}

}  // namespace preforkd::system_test
