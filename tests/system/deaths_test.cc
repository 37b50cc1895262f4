// Deaths: of workers, handlers, supervisors, control and the daemon; and workers that should be dead.
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"
#include "tests/system/waits.h"

namespace preforkd::system_test {
namespace {

pid_t idle_worker(Server& server) {
  for (const Json& worker : server.workers())
    if (worker["state"] == "idle") return worker["pid"];
  throw Failure("no worker is idle");
}

void an_idle_worker_is_replaced() {
  Server server({PoolText{.workers = "min = 3; max = 10;"}});
  pid_t victim = idle_worker(server);
  kill(victim, SIGKILL);
  server.wait_for("/lifetime/crashed", 1);
  server.wait_for("/workers/idle", 3);
  Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("state", pool["state"], "running");
  server.wait_for_log("worker " + std::to_string(victim) + ": killed by signal 9");
}

void a_busy_worker_takes_only_its_connection() {
  Server server({PoolText{.serves = unruly()}});
  Client victim(server.address()), other(server.address());
  pid_t pid = pid_serving(victim);
  pid_serving(other);
  kill(pid, SIGKILL);
  expect(victim.is_ended(), "its client sees the end");
  server.wait_for("/lifetime/crashed", 1);
  Json connections = server.pool()["connections"];
  expect_equal("accepted", connections["accepted"], 2);
  expect_equal("failed", connections["failed"], 1);
  expect_equal("active", connections["active"], 1);
  expect(pid_serving(other) > 0, "the other goes on");
  server.wait_for_log("while serving 127.0.0.1:");
}

void a_handler_that_crashes() {
  Server server({PoolText{.serves = unruly()}});
  for (const char* order : {"c", "x"}) {
    Client client(server.address());
    client.send(order);
    expect(client.is_ended(), std::string("the client sees the end after ") + order);
    Client next(server.address());
    expect(pid_serving(next) > 0, "the next one is served");
  }
  server.wait_for("/lifetime/crashed", 2);
  server.wait_for("/connections/failed", 2);
  server.wait_for("/connections/served", 2);
  expect_equal("state", server.pool()["state"], "running");
}

// One more client than there are workers waits in the queue when one dies: it must be woken for.
void a_death_loses_no_waiting_client() {
  Server server({PoolText{.serves = unruly(), .workers = "min = 2; max = 2;"}});
  for (int round = 0; round < 20; ++round) {
    Client a(server.address());
    pid_t pid = pid_serving(a);
    Client b(server.address());
    pid_serving(b);
    Client waiting(server.address());
    waiting.send("p");
    kill(pid, SIGKILL);
    waiting.read_line();
  }
  server.wait_for("/lifetime/crashed", 20);
  server.wait_for("/connections/accepted", 60);
}

void the_breaker() {
  TestFolder folder;
  std::string crash = folder.write("crash", "");
  Server server({PoolText{.name = "bad",
                          .serves = unruly("crash_while = \"" + crash + "\";"),
                          .workers = "min = 2; max = 4;"},
                 PoolText{.name = "good"}});
  server.wait_for("/state", "degraded", "bad");
  Json bad = server.pool("bad");
  expect_contains("reason", bad["reason"], "workers died in a row");
  expect(bad["lifetime"]["crashed"] >= 5, "five deaths at least");
  expect_equal("state of the other", server.pool("good")["state"], "running");
  expect(Client(server.address("good")).echoes("hello\n"), "the other serves");
  Client patient(server.address("bad"));
  patient.send("p");
  unlink(crash.c_str());
  expect(!patient.read_line(kPatience * 2).empty(), "served when the handler behaves");
  patient.half_close();
  patient.is_ended();
  server.wait_for("/state", "running", "bad");
  server.wait_for("/workers/total", 2, "bad");
  uint64_t crashed = server.pool("bad")["lifetime"]["crashed"];
  expect(crashed < 40, "not one after the other: " + std::to_string(crashed));
}

void a_supervisor_dies() {
  Server server({PoolText{.workers = "min = 3; max = 20;"}});
  for (int i = 0; i < 5; ++i) {
    Client client(server.address());
    short_echo(client);
  }
  Client busy(server.address());
  expect(busy.echoes("before\n"), "echo");
  std::string address = server.address();
  kill(server.supervisor(), SIGKILL);
  Client next(address);
  expect(next.echoes("meanwhile\n"), "a new client is served");
  expect(busy.echoes("after\n"), "the busy worker goes on with its connection");
  server.wait_for("/generation", 2);
  server.wait_for("/state", "running");
  Json pool = server.pool();
  expect_equal("accepted", pool["connections"]["accepted"], 7);
  expect_equal("active", pool["connections"]["active"], 2);
  busy.half_close();
  expect(busy.is_ended(), "and finishes it");
  next.half_close();
  expect(next.is_ended(), "so does the new one");
  server.wait_for("/connections/served", 7);
  server.wait_for("/workers/total", 3);
  server.wait_until("only the new generation's workers are left", kPatience,
                    [&] { return server.worker_pids().size() == 3; });
  expect_equal("failed", server.pool()["connections"]["failed"], 0);
}

void supervisors_die_under_load() {
  Server server({PoolText{.workers = "min = 3; max = 20;"}});
  Load load(server.address(), 4);
  uint64_t accepted = 0;
  for (int generation = 2; generation <= 4; ++generation) {
    uint64_t done = load.done();
    server.wait_until("the load goes on", kPatience, [&] { return load.done() > done + 50; });
    kill(server.supervisor(), SIGKILL);
    server.wait_until("the next generation runs", kPatience, [&] {
      Json pool = server.pool();
      expect(pool["connections"]["accepted"] >= accepted, "accepted fell");
      accepted = pool["connections"]["accepted"];
      return pool["generation"] == generation && pool["state"] == "running";
    });
  }
  load.stop();
  expect_equal("error", load.error(), "");
  server.wait_for("/connections/active", 0);
  server.wait_for("/connections/served", load.done());
}

void control_dies() {
  Server server({PoolText{}});
  Client busy(server.address());
  expect(busy.echoes("hello\n"), "echo");
  Client done(server.address());
  short_echo(done);
  server.wait_for("/connections/served", 1);
  server.wait_for("/workers/busy", 1);  // it is counted a moment earlier
  Json before = server.pool();
  for (int round = 0; round < 3; ++round) {
    pid_t control = server.control();
    kill(control, SIGKILL);
    server.wait_until("another control is there", kPatience,
                      [&] { return server.control() != control; });
    server.wait_until("it answers", kPatience,
                      [&] { return server.status()["pid"] == server.pid(); });
  }
  Json after = server.pool();
  for (const char* part :
       {"name", "state", "generation", "listen", "workers", "limits", "connections", "lifetime"})
    expect_equal(part, after[part], before[part]);
  expect(busy.echoes("hello\n"), "the pools did not notice");
}

// SIGSTOP without end: of an idle worker (a client that comes meanwhile does not wait for it), of the
// supervisor, of control. And one that goes on in time is left alone.
void stopped_ones_are_replaced() {
  Server server({PoolText{.workers = "min = 2; max = 4; min_spare = 1;"}});
  const std::string address = server.address();
  for (pid_t pid : server.worker_pids()) kill(pid, SIGSTOP);
  server.wait_until("the log says so", kPatience,
                    [&] { return occurrences(server.log(), "stopped by Stopped") == 2; });
  expect(Client(address).echoes("hello\n", 4), "served by others before they are killed");
  server.wait_for("/lifetime/timed_out", 2);
  pid_t supervisor = server.supervisor(), control = server.control();
  kill(supervisor, SIGSTOP);
  kill(control, SIGSTOP);
  expect(Client(address).echoes("hello\n"), "served while the supervisor is stopped");
  server.wait_until("both are replaced", kPatience, [&] {
    return server.supervisor() != supervisor && server.control() != control;
  });
  server.wait_for("/state", "running");
  supervisor = server.supervisor();
  pid_t worker = idle_worker(server);
  for (pid_t pid : {supervisor, worker}) kill(pid, SIGSTOP);
  server.wait_for_log("supervisor " + std::to_string(supervisor) + " was stopped");
  for (pid_t pid : {supervisor, worker}) kill(pid, SIGCONT);
  expect_equal("reload", server.ctl({"set", "echo", "min=3"}).code, 0);
  expect_equal("the supervisor", server.supervisor(), supervisor);
  expect(is_running(worker), "the worker is there");
}

// Its bit says that it is idle: whoever leaves nobody else idle rings all the same, and another one is forked.
void a_stopped_one_is_not_counted_on() {
  Server server({PoolText{.workers = "min = 1; max = 4; min_spare = 0; max_spare = 0;"}});
  kill(idle_worker(server), SIGSTOP);
  server.wait_for_log("stopped by Stopped");
  server.wait_for("/lifetime/forked", 2);
  Client busy(server.address());
  expect(busy.echoes("hello\n", 3), "served by the one in its place");
  expect(Client(server.address()).echoes("hello\n", 3), "and the next by one more");
}

void the_daemon_dies() {
  Server server({PoolText{}, PoolText{.name = "cat", .serves = "program = [ \"/bin/cat\" ];"}});
  Client busy(server.address()), program(server.address("cat"));
  expect(busy.echoes("hello\n"), "echo");
  expect(program.echoes("hello\n"), "echo by a program");
  server.signal(SIGKILL);
  server.wait_exit();
  expect(busy.echoes("still\n"), "a busy worker goes on");
  expect(program.echoes("still\n"), "so does a program");
  busy.half_close();
  program.half_close();
  expect(busy.is_ended() && program.is_ended(), "both finish");
  wait_until("nothing is left", kPatience, [&] { return server.left_behind().empty(); });
}

// As systemd would start it again, while workers of the one before still finish.
void a_new_daemon_takes_over() {
  PoolText pool{.listen = R"("127.0.0.1:0", "unix:@DIR@/local.sock")"};
  Server server({pool});
  const std::string address = server.address(), local = server.address("echo", 1);
  Client busy(address), busy_too(local);
  expect(busy.echoes("before\n") && busy_too.echoes("before\n"), "echo");
  pool.listen = "\"" + address + "\", \"" + local + "\"";
  server.write_config(config_of({pool}));
  server.signal(SIGKILL);
  server.wait_exit();
  wait_until("another daemon serves at the same addresses", kPatience, [&] {
    server.start_again();
    return true;
  });
  expect(Client(address).echoes("hello\n") && Client(local).echoes("hello\n"), "it serves");
  expect(busy.echoes("after\n") && busy_too.echoes("after\n"), "the busy ones go on");
  busy.half_close();
  busy_too.half_close();
  expect(busy.is_ended() && busy_too.is_ended(), "and finish");
}

void the_daemon_dies_and_nobody_finishes() {
  Server server({PoolText{.serves = unruly(), .timeouts = "drain = 0.5;"}});
  Client stuck(server.address()), stubborn(server.address());
  stuck.send("b");
  stubborn.send("t");
  server.wait_for("/workers/busy", 2);
  server.signal(SIGKILL);
  server.wait_exit();
  wait_until("nothing is left", kPatience, [&] { return server.left_behind().empty(); });
}

void stuck_connections_are_ended() {
  Server server({PoolText{.serves = unruly(), .timeouts = "connection = 0.4;"}});
  Client patient(server.address());
  pid_t pid = pid_serving(patient);
  const char* kOrders[] = {"b", "s", "t"};
  for (const char* order : kOrders) {
    Client client(server.address());
    client.send(order);
    Nanoseconds sent = monotonic_now();
    expect(client.is_ended(), std::string("ended after ") + order);
    double took = to_seconds(monotonic_now() - sent);
    expect(took > 0.3, "not before its time: " + std::to_string(took));
    expect(std::strcmp(order, "t") != 0 || took > 1.2, "TERM came a second before KILL");
  }
  expect(patient.is_ended(), "one that only waits is ended as well");
  server.wait_for("/lifetime/timed_out", 4);
  server.wait_for("/connections/failed", 4);
  Json pool = server.pool();
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  expect_equal("state", pool["state"], "running");
  server.wait_for_log("worker " + std::to_string(pid));
  server.wait_for_log("timeouts.connection");
}

void a_slow_start_is_ended() {
  Server server({PoolText{.serves = unruly("start_ms = 30000;"),
                          .workers = "min = 2; max = 4;",
                          .timeouts = "start = 0.1;"},
                 PoolText{.name = "good"}});
  server.wait_for("/state", "degraded");
  server.wait_for_log("did not get through start");
  expect(Client(server.address("good")).echoes("hello\n"), "the other pool serves");
}

void a_preload_that_refuses() {
  Server server({PoolText{.serves = unruly("fail_preload = true;")}, PoolText{.name = "good"}});
  server.wait_for("/state", "degraded");
  expect_contains("reason", server.pool()["reason"], "preload");
  server.wait_for_log("preload refuses, as it was told to");
  expect(Client(server.address("good")).echoes("hello\n"), "the other pool serves");
}

// It is beyond its preload by then, and takes nobody's sockets with it.
void a_supervisor_that_is_not_understood() {
  TestFolder folder;
  const std::string garble = folder.write("garble", "");
  Server server(
      {PoolText{.serves = unruly("garble_while = \"" + garble + "\";")}, PoolText{.name = "good"}},
      {.wait_until_ready = false});
  server.wait_for_log("has closed its channel: killed");
  std::filesystem::remove(garble);
  server.wait_for("/state", "running");
  Client client(server.address());
  expect(pid_serving(client) > 0, "the next one serves");
}

// It is given 5 s to answer an order.
void a_silent_supervisor_is_replaced() {
  Server server({PoolText{.workers = "min = 2; max = 20;"}});
  Client busy(server.address());
  expect(busy.echoes("before\n"), "echo");
  kill(server.supervisor(), SIGSTOP);
  Answer answer = server.request("PATCH", "/v1/pools/echo/limits", R"({"min": 4})");
  expect(answer.status == 200 || answer.status == 409,
         "an answer: " + std::to_string(answer.status));
  server.wait_for("/generation", 2);
  server.wait_for("/state", "running");
  server.wait_for("/limits/min", 4);
  expect(busy.echoes("after\n"), "its busy worker goes on");
  expect(Client(server.address()).echoes("hello\n"), "new clients are served");
  server.wait_for_log("for 5 s: killed");
}

// Everything does, as in a frozen cgroup. The time itself is what is asked about, here and in what follows it: who would end
// something for being late has that long to do so, and must not.
void stand_still(Server& server, useconds_t time) {
  const std::vector<pid_t> all = server.all_pids();
  for (const pid_t pid : all) kill(pid, SIGSTOP);
  usleep(time);
  for (const pid_t pid : all) kill(pid, SIGCONT);
}

// What is served is not late for that.
void frozen_time() {
  Server server({PoolText{.serves = unruly(), .timeouts = "connection = 2.0;"},
                 PoolText{.name = "leaves",
                          .serves = unruly(),
                          .workers = "min = 1; max = 2;",
                          .timeouts = "drain = 2.0;"}});
  Client busy(server.address()), left(server.address("leaves"));
  const pid_t serving = pid_serving(busy), leaving = pid_serving(left);
  expect_equal("recycle", server.request("POST", "/v1/pools/leaves/recycle").status, 200);
  stand_still(server, 2'500'000);  // more than both have
  usleep(300'000);
  expect_equal("who was served is served", pid_serving(busy), serving);
  expect_equal("in a drain, too", pid_serving(left), leaving);
  expect(busy.is_ended() && left.is_ended(), "and has what was left of its time");
  server.wait_for("/lifetime/timed_out", 1);
}

// What a reload waits for, too.
void frozen_time_of_a_trial() {
  PoolText pool{.timeouts = "start = 2.0;"};
  Server server({pool});
  pool.serves = unruly("start_ms = 1200;");
  server.write_config(config_of({pool}));
  server.signal(SIGHUP);
  server.wait_until("it is on trial", kPatience, [&] {
    size_t supervisors = 0;
    for (const pid_t pid : server.all_pids())
      supervisors += title_of(pid) == "preforkd: supervisor echo";
    return supervisors == 2;
  });
  stand_still(server, 2'500'000);  // more than it has
  server.wait_for_log("reloaded ");
}

// Nor does it end who waits: in the queue of an address that is given up, or with half of a PROXY header sent.
void frozen_time_of_who_waits() {
  const PoolText proxied{.name = "proxied",
                         .more = "proxy_protocol = true; trusted = [ \"127.0.0.0/8\" ];"};
  Server server(
      {PoolText{.serves = unruly(), .workers = "min = 1; max = 1; min_spare = 0;"}, proxied});
  Client half(server.address("proxied")), busy(server.address());
  half.send("PROXY TCP4 192.0.2.1 ");
  pid_serving(busy);
  std::vector<Client> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.emplace_back(server.address());
    waiting.back().send("p");
  }
  server.write_config(config_of({proxied}));
  server.signal(SIGHUP);
  server.wait_for_log("reloaded ");
  stand_still(server, 6'500'000);  // more than any of them has
  usleep(200'000);
  half.send("198.51.100.2 4242 443\r\n");
  expect(half.echoes("hello\n"), "the header is whole, and it is served");
  busy.close();
  for (Client& client : waiting) {
    expect(!client.read_line().empty(), "who waited is served");
    client.close();
  }
}

// Who looks after them may be stopped at his work, and not in his sleep.
void frozen_time_of_a_fork() {
  Server server({PoolText{.serves = unruly("start_ms = 1200;"),
                          .workers = "min = 1; max = 2; min_spare = 1;",
                          .timeouts = "start = 2.0;"}});
  server.wait_for("/state", "running");
  std::optional<Client> client;
  {
    const auto held = Held::in_fork(server.supervisor(), [&] { client.emplace(server.address()); });
    usleep(2'500'000);  // more than who is to be spare has
  }
  server.wait_for("/workers/busy", 1);
  server.wait_for("/workers/idle", 1);
  expect(server.log().find("did not get through start") == std::string::npos, "it had its time");
}

// One worker alone, by a signal.
void a_stopped_workers_time() {
  Server server({PoolText{.serves = unruly(), .timeouts = "connection = 1.0;"}});
  Client busy(server.address());
  const pid_t serving = pid_serving(busy);
  kill(serving, SIGSTOP);
  server.wait_for_log("stopped by Stopped");
  usleep(1'300'000);
  kill(serving, SIGCONT);
  usleep(200'000);
  expect_equal("who was served is served", pid_serving(busy), serving);
  expect(busy.is_ended(), "and has what was left of its time");
}

}  // namespace

Suite deaths_suite() {
  return {
      "deaths",
      {{"an idle worker is replaced", an_idle_worker_is_replaced},
       {"a busy worker takes only its connection with it", a_busy_worker_takes_only_its_connection},
       {"a handler that crashes", a_handler_that_crashes},
       {"a death loses no waiting client", a_death_loses_no_waiting_client},
       {"the breaker", the_breaker},
       {"a supervisor dies", a_supervisor_dies},
       {"supervisors die under load", supervisors_die_under_load},
       {"control dies", control_dies},
       {"stopped ones are replaced", stopped_ones_are_replaced},
       {"a stopped one is not counted on", a_stopped_one_is_not_counted_on},
       {"the daemon dies", the_daemon_dies},
       {"a new daemon takes over", a_new_daemon_takes_over},
       {"the daemon dies and nobody finishes", the_daemon_dies_and_nobody_finishes},
       {"stuck connections are ended", stuck_connections_are_ended},
       {"a slow start is ended", a_slow_start_is_ended},
       {"a preload that refuses", a_preload_that_refuses},
       {"a supervisor that is not understood", a_supervisor_that_is_not_understood},
       {"a silent supervisor is replaced", a_silent_supervisor_is_replaced},
       {"frozen time", frozen_time},
       {"frozen time of a trial", frozen_time_of_a_trial},
       {"frozen time of a fork", frozen_time_of_a_fork},
       {"frozen time of who waits", frozen_time_of_who_waits},
       {"a stopped worker's time", a_stopped_workers_time}}};
}

}  // namespace preforkd::system_test
