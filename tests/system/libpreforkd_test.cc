// Programs that accept by themselves (tests/system/programs/serving.cc): they are workers as any others are.
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <string>

#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/preloaded.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

const std::string kProgram = "@HANDLERS@/../programs/serving";

PoolText serving(const std::string& workers, const std::string& timeouts = "",
                 const std::string& argument = "") {
  return {.serves = "serve = [ \"" + kProgram + "\", \"" + argument + "\" ];",
          .workers = workers,
          .timeouts = timeouts,
          .more = preload_if_wanted()};
}
const std::string kOne = "min = 1; max = 1; min_spare = 0; max_spare = 0;";

std::string ask(Client& client, const std::string& line) {
  client.send(line + "\n");
  return client.read_line();
}
pid_t pid_of(Client& client) { return static_cast<pid_t>(std::stol(ask(client, "pid"))); }

void what_it_is_told() {
  PoolText pool = serving(kOne);
  pool.more += "settings = { greeting = \"hello\"; };";
  Server server({pool});
  Client client(server.address());
  expect_equal("number", ask(client, "number"), "1");
  expect_equal("peer", ask(client, "peer"), client.own_address());
  expect_equal("local", ask(client, "local"), server.address());
  expect_equal("pool", ask(client, "pool"), "echo");
  expect_equal("settings", Json::parse(ask(client, "settings"))["greeting"], "hello");
  expect_equal("descriptors for others", ask(client, "descriptors"), "0 1 2");
  expect_equal("blocked signals", ask(client, "blocked"), "URG");
  expect_equal("to a child", ask(client, "child"),
               "this is not the process that preforkd started, but a child of it");
  expect_equal("in another thread", ask(client, "thread"),
               "preforkd_accept() is for the main thread");
  expect_equal("served by the child", server.pool()["connections"]["served"], 0);
  ask(client, "note GET /x");
  const Json worker = server.workers()[0];
  expect_equal("note", worker["note"], "GET /x");
  expect_equal("state", worker["state"], "busy");
  expect_equal("peer shown", worker["peer"], client.own_address());
  expect_equal("pid shown", worker["pid"].get<pid_t>(), pid_of(client));
  ask(client, "log dear diary");
  server.wait_for_log("pool echo: worker " + std::to_string(pid_of(client)) + ": dear diary");
  client.close();
  server.wait_for("/connections/served", 1);
  Client next(server.address());
  expect_equal("the next number", ask(next, "number"), "2");
}

void outside_of_preforkd() {
  const TestFolder folder;
  const Outcome alone = run({folder.expand(kProgram)}, kPatience);
  expect_equal("exit code", alone.code, 1);
  expect_contains("what it says", alone.err,
                  "this process was not started by preforkd, as `serve` of a pool");
}

void counted() {
  Server server({serving(kOne)});
  Client failed(server.address());
  ask(failed, "fail");
  failed.read_until_eof();
  expect_equal("failed, at once", server.pool()["connections"]["failed"], 1);
  Client untold(server.address());
  ask(untold, "untold");
  untold.read_until_eof();
  server.wait_for("/connections/served", 1);
  server.wait_for("/workers/idle", 1);
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

// Nobody is lost when programs end by themselves between two connections, though others wait.
void leaves_when_it_likes() {
  Server server({serving("min = 4; max = 8; min_spare = 1; max_spare = 2;")});
  Load load(
      server.address(), 4,
      [](Client& client) {
        expect_equal("told", ask(client, "leave"), "done");
        client.half_close();
        expect_equal("the end", client.read_until_eof(), "");
      },
      25);
  load.join();
  expect_equal("error", load.error(), "");
  server.wait_for("/connections/served", 100);
  server.wait_for("/lifetime/recycled", 100);
  const Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  expect_equal("state", pool["state"], "running");
}

void dies_in_the_midst() {
  Server server({serving(kOne)});
  Client client(server.address());
  client.send("exit 0\n");  // no way to leave, as for a handler
  expect(client.is_ended(), "the client is told");
  server.wait_for("/lifetime/crashed", 1);
  Client next(server.address());
  kill(pid_of(next), SIGKILL);
  server.wait_for("/lifetime/crashed", 2);
  server.wait_for("/connections/failed", 2);
  Client last(server.address());
  expect_equal("then", ask(last, "number"), "1");
}

void never_calls_in() {
  Server server(
      {serving("min = 2; max = 4; min_spare = 1; max_spare = 1;", "start = 0.1;", "never"),
       PoolText{.name = "good"}},
      {.wait_until_ready = false});
  server.wait_for_log("did not get through start in 100 ms: killed");
  server.wait_until("the breaker has tripped", 40, [&] {
    return server.status()["pools"].size() == 2 && server.pool()["state"] == "degraded" &&
           server.pool()["lifetime"]["timed_out"] >= 5;
  });
}

void ends_before_it_calls_in() {
  Server server({serving(kOne, "", "ends"), PoolText{.name = "good"}}, {.wait_until_ready = false});
  server.wait_for_log("exited with status 0 while starting");
}

void without_its_descriptors() {
  Server server({serving(kOne, "", "shuts"), PoolText{.name = "good"}},
                {.wait_until_ready = false});
  server.wait_for_log("read a document: Bad file descriptor");
  server.wait_for_log("exited with status 1 while starting");
}

void a_stuck_one() {
  Server server({serving(kOne, "connection = 0.2;")});
  Client client(server.address());
  client.send("note stuck\nhang\n");
  expect_equal("noted", client.read_line(), "done");
  expect(client.is_ended(), "its client is told");
  server.wait_for("/lifetime/timed_out", 1);
  server.wait_for_log("(stuck) for");
  Client next(server.address());
  ask(next, "extend 60000");
  expect_equal("extended: it may go on", ask(next, "number"), "1");
}

void told_to_leave() {
  Server server({serving("min = 2; max = 4; min_spare = 1; max_spare = 1;", "", "again")});
  Client client(server.address());
  const pid_t before = pid_of(client);
  ask(client, "recycle");
  expect_equal("until then it serves", ask(client, "number"), "1");
  client.close();
  server.wait_for("/lifetime/recycled", 1);
  server.wait_for("/workers/idle", 2);
  expect(kill(before, 0) < 0, "it is gone");
  server.wait_for_log("asked again: 0");
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void asks_between_connections() {
  Server server({serving(kOne)});
  Client client(server.address());
  const pid_t before = pid_of(client);
  ask(client, "later");
  client.close();
  server.wait_for("/lifetime/recycled", 1);
  Client next(server.address());
  expect(pid_of(next) != before, "another one serves");
  expect_equal("retired", server.pool()["lifetime"]["retired"], 0);
}

void asks_before_the_first() {
  Server server({serving(kOne, "", "worn")});
  for (int before = 0, round = 1; round <= 3; ++round) {
    Client client(server.address());
    const pid_t serves = pid_of(client);
    expect(serves != before, "each serves one");
    before = serves;
    client.close();
    server.wait_for("/lifetime/recycled", round);
  }
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void new_generations() {
  Server server({serving(kOne)});
  Client old(server.address());
  const pid_t before = pid_of(old);
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  Client fresh(server.address());
  expect(pid_of(fresh) != before, "another program serves");
  expect_equal("the old one finishes", ask(old, "number"), "1");
  old.close();
  server.wait_until("and ends", kPatience, [&] { return kill(before, 0) < 0; });

  server.write_config(config_of({serving(kOne, "start = 0.2;", "never")}));
  const Outcome refused = server.ctl({"reload"});
  expect_equal("refused", refused.code, 1);
  expect_contains("why", refused.err, "the new generation");
  expect_equal("the one before serves on", ask(fresh, "number"), "1");
  expect_equal("reloads", server.status()["reloads"], 0);
}

void its_supervisor_dies() {
  Server server({serving(kOne)});
  Client client(server.address());
  const pid_t worker = pid_of(client), supervisor = server.supervisor();
  kill(supervisor, SIGKILL);
  server.wait_until("there is another", kPatience, [&] {
    const pid_t now = server.supervisor();
    return now > 0 && now != supervisor;
  });
  Client next(server.address());
  expect(pid_of(next) != worker, "a new one serves");
  expect_equal("the orphan finishes", ask(client, "pid"), std::to_string(worker));
  client.close();
  server.wait_until("and ends", kPatience, [&] { return kill(worker, 0) < 0; });
}

void refused_ones() {
  PoolText pool = serving(kOne);
  pool.more += "per_source = 1; access = { deny = [ \"127.0.0.7\" ]; };";
  pool.workers = "min = 2; max = 2; min_spare = 0; max_spare = 0;";
  Server server({pool});
  Client first(server.address());
  ask(first, "number");
  expect(Client(server.address()).is_ended(), "a second one of this address");
  expect(Client(server.address(), "127.0.0.7").is_ended(), "one that is denied");
  server.wait_for("/connections/rejected_by/per_source", 1);
  server.wait_for("/connections/rejected_by/denied", 1);
  first.close();
  server.wait_for("/connections/served", 1);
  Client second(server.address());
  expect_equal("then there is room", ask(second, "pool"), "echo");
}

void found_in_path() {
  const TestFolder folder;
  auto check = [&](const std::string& serve) {
    const std::string file = folder.write(
        "c", folder.expand(config_of({PoolText{.serves = "serve = [ " + serve + " ];"}})));
    return run({built("preforkd"), "-t", "-c", file}, kPatience);
  };
  expect_equal("sh", check("\"sh\", \"-c\", \"exec x\"").code, 0);
  const Outcome nowhere = check("\"no-such-program\"");
  expect_equal("code", nowhere.code, 78);
  expect_contains("not in PATH", nowhere.err, "serve: execute no-such-program: not found in $PATH");
  expect_contains("not a path", check("\"/nowhere/app\"").err,
                  "serve: execute /nowhere/app: No such file or directory");
  expect_contains("nothing", check("\"\"").err, "serve: \"\": expected a program");
}

}  // namespace

Suite libpreforkd_suite() {
  return {"libpreforkd",
          {{"what it is told", what_it_is_told},
           {"outside of preforkd", outside_of_preforkd},
           {"counted", counted},
           {"leaves when it likes", leaves_when_it_likes},
           {"dies in the midst", dies_in_the_midst},
           {"never calls in", never_calls_in},
           {"ends before it calls in", ends_before_it_calls_in},
           {"without its descriptors", without_its_descriptors},
           {"a stuck one", a_stuck_one},
           {"told to leave", told_to_leave},
           {"asks between connections", asks_between_connections},
           {"asks before the first", asks_before_the_first},
           {"new generations", new_generations},
           {"its supervisor dies", its_supervisor_dies},
           {"refused ones", refused_ones},
           {"found in PATH", found_in_path},
           {"preloaded: what it is told", [] { preloaded(what_it_is_told); }},
           {"preloaded: counted", [] { preloaded(counted); }},
           {"preloaded: leaves when it likes", [] { preloaded(leaves_when_it_likes); }},
           {"preloaded: dies in the midst", [] { preloaded(dies_in_the_midst); }},
           {"preloaded: a stuck one", [] { preloaded(a_stuck_one); }},
           {"preloaded: told to leave", [] { preloaded(told_to_leave); }},
           {"preloaded: asks between connections", [] { preloaded(asks_between_connections); }},
           {"preloaded: asks before the first", [] { preloaded(asks_before_the_first); }},
           {"preloaded: new generations", [] { preloaded(new_generations); }},
           {"preloaded: its supervisor dies", [] { preloaded(its_supervisor_dies); }},
           {"preloaded: refused ones", [] { preloaded(refused_ones); }}}};
}

}  // namespace preforkd::system_test
