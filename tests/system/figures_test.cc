// The figures: how connections that did not go well are counted, and that none of them falls, or is wrong, whichever process
// dies.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

#include <functional>
#include <thread>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

const std::string kOne = "min = 1; max = 1; min_spare = 0; max_spare = 0;";

struct Counters {
  explicit Counters(const Json& connections)
      : accepted(connections["accepted"]),
        served(connections["served"]),
        failed(connections["failed"]),
        aborted(connections["aborted"]),
        active(connections["active"]) {}
  explicit Counters(Server& server) : Counters(server.pool()["connections"]) {}
  uint64_t accepted, served, failed, aborted, active;
};

// As soon as nobody is served: what the connections have ended as.
void expect_ended(Server& server, const std::string& when, uint64_t served, uint64_t failed,
                  uint64_t aborted) {
  const uint64_t all = served + failed + aborted;
  server.wait_until(when + ": all have ended", kPatience, [&] {
    const Counters now(server);
    return now.accepted >= all && now.active == 0;
  });
  const Counters now(server);
  expect_equal(when + ": accepted", now.accepted, all);
  expect_equal(when + ": served", now.served, served);
  expect_equal(when + ": failed", now.failed, failed);
  expect_equal(when + ": aborted", now.aborted, aborted);
}

// What a client does while the pool's only worker stands still: all of it is there when it looks.
void while_it_stands_still(Server& server, const std::function<void()>& client) {
  const pid_t worker = server.workers().at(0)["pid"];
  kill(worker, SIGSTOP);
  client();
  kill(worker, SIGCONT);
}

void say(Server& server, const std::string& order, void (Client::*and_then)()) {
  while_it_stands_still(server, [&] {
    Client client(server.address());
    client.send(order);
    (client.*and_then)();
  });
}

const std::string kThrower = "handler = \"@HANDLERS@/thrower.so\";";

void clients_of_a_handler(const std::string& listen) {
  Server server({PoolText{.listen = listen, .serves = kThrower, .workers = kOne}});
  const bool is_unix = listen.starts_with("\"unix:");
  uint64_t served = 0, failed = 0, aborted = 0;
  auto expect_now = [&](const std::string& when) {
    expect_ended(server, listen + ", " + when, served, failed, aborted);
  };
  say(server, "", &Client::close);
  ++served;  // `serve` has returned: whatever the client did
  expect_now("closed at once");
  say(server, "runtime trouble\n", &Client::close);
  ++aborted;
  expect_now("closed before it had an answer");
  {
    Client client(server.address());
    client.send("runtime trouble\n");
    expect(client.is_ended(), "the end");
  }
  ++failed;
  expect_now("trouble of the handler's own");
  {
    Client client(server.address());
    client.send("pid\n");
    client.read_line();
    client.half_close();
    expect(client.is_ended(), "the end");
  }
  ++served;
  expect_now("done with writing");
  {
    Client client(server.address());
    client.send("pid\n");
    client.read_line();
    while_it_stands_still(server, [&] {
      client.send("runtime trouble\n");
      client.half_close();
    });
    expect(client.is_ended(), "the end");
  }
  ++failed;
  expect_now("trouble in the midst of answers, which the client waits for");
  if (!is_unix) {
    say(server, "", &Client::reset);
    ++aborted;
    expect_now("reset at once");
    Client client(server.address());
    client.send("pid\n");
    client.read_line();
    client.reset();
    ++aborted;
    expect_now("reset after an answer");
  } else {
    Client client(server.address());
    client.send("pid\n");
    server.wait_until("there is an answer", kPatience, [&] { return client.has_answer(); });
    client.close();
    ++aborted;
    expect_now("closed with an answer unread");
  }
  for (const Json& worker : server.workers()) {
    expect_equal("its worker's own", worker["aborted"].get<uint64_t>(), aborted);
    expect_equal("its worker's failed", worker["failed"].get<uint64_t>(), failed);
  }
  const std::string total =
      "preforkd_connections_aborted_total{pool=\"echo\"} " + std::to_string(aborted) + "\n";
  expect_contains("metrics", server.request("GET", "/metrics").body, total);
  expect_contains("status", server.ctl({"status", "echo"}).out,
                  std::to_string(aborted) + " aborted");
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  expect_now("over generations");
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void clients_that_end_it() {
  clients_of_a_handler("\"127.0.0.1:0\"");
  clients_of_a_handler("\"unix:@DIR@/sock\"");
}

// A program that accepts by itself has the descriptor in its own hands.
void clients_of_one_that_accepts_by_itself() {
  Server server(
      {PoolText{.serves = "serve = [ \"@HANDLERS@/../programs/serving\" ];", .workers = kOne}});
  {
    Client client(server.address());
    client.send("fail\n");
    expect(client.is_ended(), "the end");
  }
  expect_ended(server, "failed", 0, 1, 0);
  say(server, "fail\n", &Client::reset);
  expect_ended(server, "reset", 0, 1, 1);
  say(server, "shut\n", &Client::reset);
  expect_ended(server, "closed before it was counted: nothing is known", 0, 2, 1);
  say(server, "replace\n", &Client::reset);
  expect_ended(server, "another one has its number", 0, 3, 1);
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

// Who is turned away is not served, whatever else he does.
void who_is_turned_away() {
  Server server({PoolText{.serves = kThrower,
                          .workers = kOne,
                          .more = "proxy_protocol = true; trusted = [ \"127.0.0.1\" ];"}});
  say(server, "PROXY TCP4 ", &Client::reset);
  server.wait_for("/connections/rejected_by/proxy_header", 1);
  expect_ended(server, "reset within the header", 0, 0, 0);
}

const std::string kExits = R"(read code; [ "$code" = crash ] && kill -SEGV $$; exit $code)";

void good_ends_of_programs() {
  Server server({PoolText{.serves = "program = [ \"/bin/sh\", \"-c\", \"read code; exit $code\" ]; "
                                    "success = [ 0, 255 ];"}});
  for (const char* code : {"0\n", "255\n", "1\n", "254\n", "255\n"}) {
    Client client(server.address());
    client.send(code);
    expect(client.is_ended(), "the end");
  }
  expect_ended(server, "0 and 255 are named", 3, 2, 0);
  expect_equal("recycled", server.pool()["lifetime"]["recycled"], 5);
}

// --- when processes die --------------------------------------------------------------------------

// Programs that have lost their supervisor count as if they had it: the daemon tells how they end, over an upgrade, too.
void a_supervisor_dies_while_programs_serve() {
  std::string script = kExits;
  for (size_t at = 0; (at = script.find('"', at)) != script.npos; at += 2) script.insert(at, "\\");
  Server server({PoolText{
      .serves = "program = [ \"/bin/sh\", \"-c\", \"" + script + "\" ]; success = [ 0, 7 ];",
      .workers = "min = 4; max = 32; min_spare = 2; max_spare = 4;"}});
  const char* kEnds[] = {"0\n", "7\n", "3\n", "crash\n", "0\n", "9\n", "0\n", "7\n"};
  std::vector<Client> clients;
  for (size_t i = 0; i < std::size(kEnds); ++i) clients.emplace_back(server.address());
  server.wait_for("/connections/active", std::size(kEnds));
  const pid_t supervisor = server.supervisor();
  kill(supervisor, SIGKILL);
  server.wait_until("another takes its place", kPatience, [&] {
    const pid_t now = server.supervisor();
    return now > 0 && now != supervisor && server.pool()["state"] == "running";
  });
  for (size_t i = 0; i < std::size(kEnds); ++i) {
    if (i == std::size(kEnds) / 2) expect_equal("upgrade", server.ctl({"upgrade"}).code, 0);
    const Counters now(server);
    expect_equal("accepted", now.accepted, std::size(kEnds));
    expect_equal("the sum", now.served + now.failed + now.aborted + now.active, now.accepted);
    clients[i].send(kEnds[i]);
    expect(clients[i].is_ended(), "the end");
  }
  expect_ended(server, "all are counted as what they ended as", 5, 3, 0);
  const Json lifetime = server.pool()["lifetime"];
  expect_equal("crashed", lifetime["crashed"], 1);
  expect_equal("recycled", lifetime["recycled"], std::size(kEnds) - 1);
}

// Each control that is killed is followed by another, which shows at once what the one before has shown, or more.
void never_fall(Server& server, int rounds) {
  Load load(server.address(), 3);
  Counters last(server);
  for (int round = 0; round < rounds; ++round) {
    expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
    last = Counters(server);
    const pid_t control = server.control();
    kill(control, SIGKILL);
    wait_until("control is gone", kPatience, [&] { return !is_running(control); });
    const Answer answer = server.request("GET", "/v1/pools/echo");
    expect_equal("status", answer.status, 200);
    const Counters now(answer.json()["connections"]);
    expect(now.accepted >= last.accepted && now.served >= last.served,
           "round " + std::to_string(round) + ": " + std::to_string(last.accepted) +
               " accepted, then " + std::to_string(now.accepted));
    expect_equal("the sum", now.served + now.failed + now.aborted + now.active, now.accepted);
  }
  load.stop();
  expect_equal("error", load.error(), "");
}

void control_is_killed_under_load() {
  Server server({PoolText{}});
  never_fall(server, 4);
}

// The same with 20 ms between any two messages of the daemon.
void control_is_killed_and_hears_slowly() {
  ServerOptions slow;
  slow.in_child = [] {
    setenv("LD_PRELOAD", built("tests/system/handlers/slow_news.so").c_str(), 1);
  };
  if (are_sanitized()) return skip("a sanitizer must be loaded first");
  Server server({PoolText{}}, slow);
  never_fall(server, 3);
}

// --- max, and the memory that there is for it ----------------------------------------------------

PoolText starting_while_held(const std::string& more = "") {
  return {.serves = unruly("start_while = \"@DIR@/hold\";" + more),
          .workers = "min = 1; max = 64; min_spare = 1; max_spare = 2;"};
}

// What is done while a generation is on trial, which lasts until that is over.
Outcome during(Server& server, const std::vector<std::string>& command,
               const std::function<void()>& done) {
  const std::string hold = server.folder().write("hold", "");
  Outcome outcome;
  {
    const uint32_t serves =
        server.pool()["generation"];  // the last in the list, or before one on trial
    std::jthread asker([&] { outcome = server.ctl(command); });
    try {
      server.wait_until("a generation is on trial", kPatience,
                        [&] { return server.pool()["generations"].back()["number"] > serves; });
      done();
    } catch (const std::exception& e) {
      expect(false, e.what());
    }
    unlink(hold.c_str());
  }
  return outcome;
}

void max_while_a_recycle_is_under_way() {
  PoolText pool = starting_while_held();
  Server server({pool});
  // The file once had more: the memory of the generation that serves is for 3008.
  pool.listen = "\"" + server.address() + "\"";
  pool.workers = "min = 1; max = 3000; min_spare = 1; max_spare = 2;";
  server.write_config(config_of({pool}));
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  pool.workers = "min = 1; max = 64; min_spare = 1; max_spare = 2;";
  server.write_config(config_of({pool}));
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  expect_equal("capacity", server.pool()["capacity"], 3008);
  const Outcome recycled = during(server, {"recycle", "echo"}, [&] {
    expect_equal("set", server.ctl({"set", "echo", "max=2500"}).code, 0);
  });
  expect_equal("recycle: " + recycled.err, recycled.code, 0);
  const Json now = server.pool();
  expect_equal("max", now["limits"]["max"], 2500);
  expect(now["capacity"].get<uint32_t>() >= 2500, "there is memory for that");
  expect_equal("set again", server.ctl({"set", "echo", "max_spare=9"}).code, 0);
  // A supervisor that dies changes nothing about that.
  expect_equal("for a while", server.ctl({"set", "echo", "max=70", "--for", "600"}).code, 0);
  const pid_t supervisor = server.supervisor();
  kill(supervisor, SIGKILL);
  server.wait_until("another takes its place", kPatience, [&] {
    const pid_t next = server.supervisor();
    return next > 0 && next != supervisor && server.pool()["state"] == "running";
  });
  expect_equal("capacity", server.pool()["capacity"], 3008);

  // What another generation, of other settings, has no memory for is refused as long as it is on trial.
  pool.serves = unruly("start_while = \"@DIR@/hold\"; die_after_ms = 0;");
  server.write_config(config_of({pool}));
  const Outcome reloaded = during(server, {"reload"}, [&] {
    const Outcome refused = server.ctl({"set", "echo", "max=2500"});
    expect_equal("set", refused.code, 1);
    expect_contains("why", refused.err, "max 2500 is above 1024");
    expect_equal("what it has memory for", server.ctl({"set", "echo", "max=1000"}).code, 0);
  });
  expect_equal("reload: " + reloaded.err, reloaded.code, 0);
  expect_equal("as the file has it", server.pool()["limits"]["max"], 64);
  expect_equal("set", server.ctl({"set", "echo", "max=1024"}).code, 0);
}

// A pool that nobody serves has no memory that a limit could be too large for.
void max_of_a_stopped_pool() {
  PoolText pool{.workers = "min = 1; max = 64;"};
  Server server({pool});
  pool.listen = "\"" + server.address() + "\"";
  expect_equal("drain", server.ctl({"drain", "echo"}).code, 0);
  server.wait_for("/state", "stopped");
  pool.workers = "min = 1; max = 2500;";
  server.write_config(config_of({pool}));
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  expect_equal("set", server.ctl({"set", "echo", "min=2"}).code, 0);
  expect_equal("resume", server.ctl({"resume", "echo"}).code, 0);
  server.wait_for("/state", "running");
  expect_equal("capacity", server.pool()["capacity"], 2560);
  expect_equal("max", server.pool()["limits"]["max"], 2500);
}

}  // namespace

Suite figures_suite() {
  return {"figures",
          {{"clients that end it", clients_that_end_it},
           {"clients of one that accepts by itself", clients_of_one_that_accepts_by_itself},
           {"who is turned away", who_is_turned_away},
           {"good ends of programs", good_ends_of_programs},
           {"a supervisor dies while programs serve", a_supervisor_dies_while_programs_serve},
           {"control is killed under load", control_is_killed_under_load},
           {"control is killed, and hears slowly", control_is_killed_and_hears_slowly},
           {"max while a recycle is under way", max_while_a_recycle_is_under_way},
           {"max of a stopped pool", max_of_a_stopped_pool}}};
}

}  // namespace preforkd::system_test
