// Programs that accept by libc's accept() on a socket that they inherit (tests/system/programs/accepts.cc): they are workers as
// any others are, however they wait.
#include <signal.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/preloaded.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

const std::string kOne = "min = 1; max = 1; min_spare = 0; max_spare = 0;";
const char* const kWays[] = {"accept",  "accept4", "poll", "ppoll",   "select",
                             "pselect", "epoll",   "edge", "oneshot", "exclusive"};

PoolText accepting(const std::string& way, const std::vector<std::string>& options,
                   const std::string& workers = kOne, const std::string& accept = "stdin") {
  std::string words = "\"@HANDLERS@/../programs/accepts\", \"" + way + "\"";
  for (const std::string& option : options) words += ", \"" + option + "\"";
  return {.serves = "serve = [ " + words + " ]; accept = \"" + accept + "\";",
          .workers = workers,
          .more = preload_if_wanted()};
}

std::string ask(Client& client, const std::string& line) {
  client.send(line + "\n");
  return client.read_line();
}
pid_t pid_of(Client& client) { return static_cast<pid_t>(std::stol(ask(client, "pid"))); }

// One connection, from its begin to the worker's next wait.
void expect_served(Server& server, const std::string& how, const std::string& pool, int number) {
  Client client(server.address(pool));
  expect_equal(how + ": peer", ask(client, "peer"), client.own_address());
  expect_equal(how + ": busy", server.pool(pool)["workers"]["busy"], 1);
  expect_equal(how + ": environment", ask(client, "environment"), "clean");
  client.send("end\n");
  expect_equal(how + ": it ends", client.read_until_eof(), "");
  server.wait_for("/connections/served", number, pool);
  server.wait_for("/workers/idle", 1, pool);
}

void each_way() {
  std::vector<PoolText> pools;
  for (const char* way : kWays)
    for (const char* accept : {"stdin", "fd3"}) {
      pools.push_back(accepting(way, {}, kOne, accept));
      pools.back().name = std::string(way) + "-" + accept;
    }
  Server server(pools);
  for (const PoolText& pool : pools) {
    for (int number = 1; number <= 2; ++number) expect_served(server, pool.name, pool.name, number);
    expect_equal(pool.name + ": crashed", server.pool(pool.name)["lifetime"]["crashed"], 0);
  }
}

void each_socket() {
  std::vector<PoolText> pools;
  for (const char* option : {"nonblock", "fionbio", "copy", "closes", "everybodys"})
    for (const char* way : {"accept", "poll", "epoll"}) {
      pools.push_back(accepting(way, {option}));
      pools.back().name = std::string(option) + "-" + way;
    }
  Server server(pools);
  for (const PoolText& pool : pools)
    for (int number = 1; number <= 2; ++number) expect_served(server, pool.name, pool.name, number);
  for (const char* pool : {"nonblock-poll", "fionbio-poll", "everybodys-poll"}) {
    Client client(server.address(pool));
    const bool blocks = std::string(pool).starts_with("everybodys");
    expect_equal(pool, ask(client, "flags"), blocks ? "blocking" : "nonblocking");
  }
}

void each_end() {
  std::vector<PoolText> pools;
  for (const char* option : {"fclose", "leaks", "shuts"})
    for (const char* way : {"accept", "select"}) {
      pools.push_back(accepting(way, {option}));
      pools.back().name = std::string(option) + "-" + way;
    }
  Server server(pools);
  for (const PoolText& pool : pools)
    for (int number = 1; number <= 2; ++number) {
      Client client(server.address(pool.name));
      client.send("end\n");
      server.wait_for("/connections/served", number, pool.name);
      server.wait_for("/workers/idle", 1, pool.name);
    }
}

void a_copy() {
  Server server({accepting("accept", {"dup"})});
  Client client(server.address());
  client.send("end\n");
  expect_equal("the copy serves", client.read_line(), "a copy");
  expect_equal("in hand", server.pool()["connections"]["active"], 1);
  client.half_close();
  server.wait_for("/connections/served", 1);
}

void one_at_a_time() {
  const std::string two = "min = 2; max = 2; min_spare = 0; max_spare = 0;";
  for (const char* way : {"accept", "poll", "epoll"}) {
    Server server({accepting(way, {"thread", std::string(way) == "epoll" ? "nonblock" : ""}, two)});
    Client first(server.address()), second(server.address());
    expect(pid_of(first) != pid_of(second), std::string(way) + ": by two processes");
    Client third(server.address());
    third.send("pid\n");
    server.wait_for("/backlog/queued", 1);
    const pid_t free = pid_of(second);
    second.send("end\n");
    expect_equal("who is free", third.read_line(), std::to_string(free));
  }
}

// Of two who are woken one has the client: the other waits as before.
void woken_in_vain() {
  const std::string two = "min = 2; max = 2; min_spare = 0; max_spare = 0;";
  for (const char* way : {"oneshot", "edge", "exclusive"}) {
    Server server({accepting(way, {}, two)});
    for (int round = 0; round < 3; ++round) {
      Client first(server.address());
      const pid_t one = pid_of(first);
      Client second(server.address());
      expect(pid_of(second) != one, std::string(way) + ": by two processes");
    }
  }
}

void errors_of_epoll() {
  Server server({accepting("accept", {"pipe"})});
  Client client(server.address());
  expect_equal("as the kernel tells them", ask(client, "epoll"),
               "EINVAL EBADF ENOENT ENOENT EFAULT 0 EEXIST EINVAL 0 ENOENT ");
}

void its_own_events() {
  Server server({accepting("poll", {"pipe"})});
  const pid_t worker = server.workers()[0]["pid"].get<pid_t>();
  kill(worker, SIGUSR1);
  Client client(server.address());
  expect_equal("woken", ask(client, "woken"), "1");
  client.send("end\n");
  expect(client.is_ended(), "it ends");
}

// (One that comes before it waits is told to nobody, as with libc's.)
void its_signals() {
  Server server({accepting("accept", {"signal"})});
  const pid_t worker = server.workers()[0]["pid"].get<pid_t>();
  server.wait_until("accept has told of it", kPatience, [&] {
    kill(worker, SIGUSR1);
    Client client(server.address());
    return ask(client, "woken") != "0";
  });
}

// They are the worker's: its supervisor's death, a nudge, and the order to end mean what they do to others.
void handlers_of_its_own() {
  PoolText pool =
      accepting("accept", {"handlers"}, "min = 1; max = 2; min_spare = 0; max_spare = 0;");
  pool.timeouts = "connection = 2.0;";
  Server server({pool});
  for (int number = 1; number <= 2; ++number) expect_served(server, "served", "echo", number);
  Client held(server.address());
  const pid_t worker = pid_of(held), supervisor = server.supervisor();
  kill(supervisor, SIGKILL);
  server.wait_until("another supervisor", kPatience, [&] {
    const pid_t now = server.supervisor();
    return now > 0 && now != supervisor;
  });
  expect_equal("who is served goes on", pid_of(held), worker);
  held.send("end\n");
  expect_equal("to its end", held.read_until_eof(), "");
  Client slow(server.address());
  const pid_t late = pid_of(slow);
  expect(slow.is_ended(), "the deadline");
  server.wait_for("/lifetime/timed_out", 1);
  expect(!is_running(late), "by the order to end");
  server.wait_for_log("ended (timeouts.connection)");
}

void addresses() {
  PoolText pool = accepting("accept", {});
  pool.listen = "\"127.0.0.1:0\", \"[::1]:0\", \"unix:@DIR@/accepts.sock\"";
  Server server({pool});
  for (size_t i : {0, 1}) {
    Client client(server.address("echo", i));
    expect_equal("peer", ask(client, "peer"), client.own_address());
    expect_equal("own", ask(client, "own"), server.address("echo", i));
  }
  Client local("unix:" + server.folder().file("accepts.sock"));
  expect_equal("peer", ask(local, "peer"), "unix");
}

void behind_a_proxy() {
  PoolText pool = accepting("accept", {});
  pool.more += "proxy_protocol = true; trusted = [ \"127.0.0.0/8\" ];";
  Server server({pool});
  Client client(server.address());
  client.send("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n");
  expect_equal("peer", ask(client, "peer"), "192.0.2.7:4711");
  expect_equal("peername", ask(client, "peername"), "192.0.2.7:4711");
  expect_equal("own", ask(client, "own"), "192.0.2.1:80");
}

void who_may_not() {
  PoolText pool = accepting("poll", {}, "min = 2; max = 2; min_spare = 0; max_spare = 0;");
  pool.more += "access = { deny = [ \"127.0.0.9\" ]; }; per_source = 1;";
  Server server({pool});
  Client denied(server.address(), "127.0.0.9");
  expect(denied.is_ended(), "denied");
  Client first(server.address());
  pid_of(first);
  Client second(server.address());
  expect(second.is_ended(), "the second of one address");
  expect_equal("rejected", server.pool()["connections"]["rejected"], 2);
}

// Clients all the time, while the pool shrinks, is reloaded, recycled: none is lost.
void nobody_is_lost() {
  for (const char* way : {"accept", "poll", "epoll"}) {
    Server server({accepting(way, {"bye"},
                             "min = 1; max = 6; min_spare = 1; max_spare = 2; connections = 7;")});
    for (int round = 0; round < 12; ++round) {
      std::vector<std::unique_ptr<Client>> clients;
      for (int i = 0; i < 4; ++i) clients.push_back(std::make_unique<Client>(server.address()));
      if (round % 4 == 1) expect_equal("reload", server.ctl({"reload"}).code, 0);
      if (round % 4 == 2) server.ctl({"set", "echo", "max=" + std::to_string(2 + round % 3)});
      for (auto& client : clients) {
        pid_of(*client);
        client->send("end\n");
        expect_equal("served", client->read_until_eof(), "");
      }
    }
    server.wait_for("/connections/served", 48);
    const Json pool_now = server.pool();
    expect_equal("failed", pool_now["connections"]["failed"], 0);
    expect_equal("crashed", pool_now["lifetime"]["crashed"], 0);
    server.wait_for_log(": bye");
  }
}

void deaths() {
  PoolText pool = accepting("poll", {});
  pool.timeouts = "connection = 0.3;";
  Server server({pool});
  Client killed(server.address());
  kill(pid_of(killed), SIGKILL);
  expect(killed.is_ended(), "its client sees the end");
  server.wait_for("/connections/failed", 1);
  Client slow(server.address());
  pid_of(slow);
  expect(slow.is_ended(), "the deadline");
  server.wait_for("/connections/failed", 2);
  server.wait_for("/lifetime/timed_out", 1);
  Client next(server.address());
  pid_of(next);
}

void it_ends_by_itself() {
  Server server({accepting("accept", {"once"})});
  for (int i = 0; i < 3; ++i) {
    Client client(server.address());
    pid_of(client);
    client.send("end\n");
    expect(client.is_ended(), "it ends");
  }
  server.wait_for("/lifetime/recycled", 3);
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void a_wrapper() {
  PoolText pool = accepting("accept", {});
  pool.serves =
      "serve = [ \"/bin/sh\", \"-c\", \"exec env X=1 @HANDLERS@/../programs/accepts poll\" ]; "
      "accept = \"fd3\";";
  Server server({pool});
  for (int number = 1; number <= 2; ++number) expect_served(server, "wrapped", "echo", number);
}

void a_child_that_accepts() {
  PoolText pool = accepting("accept", {"child"});
  Server server({pool, PoolText{.name = "good"}}, {.wait_until_ready = false});
  server.wait_for_log("a child of it accepts (accepts)");
  server.wait_until("it is degraded", kPatience,
                    [&] { return server.pool()["state"] == "degraded"; });
  Client client(server.address("good"));
  expect(client.echoes("hello"), "another pool serves");
}

void misconfigured() {
  const TestFolder folder;
  auto said_of = [&](const std::string& pool) {
    folder.write("preforkd.conf",
                 "pools = ( { name = \"p\";\nlisten = [ \"127.0.0.1:0\" ];\n" + pool + "} );\n");
    return run({built("preforkd"), "-t", "-c", folder.file("preforkd.conf")}, kPatience);
  };
  const Outcome alone = said_of("handler = \"echo\";\naccept = \"stdin\";");
  expect_equal("code", alone.code, 78);
  expect_contains("without serve", alone.err, "preforkd.conf:4: accept: is for a pool with serve");
  const Outcome unknown = said_of("serve = [ \"cat\" ];\naccept = \"fd4\";");
  expect_equal("code", unknown.code, 78);
  expect_contains("unknown", unknown.err,
                  "preforkd.conf:4: accept: \"fd4\": expected stdin or fd3");
}

}  // namespace

Suite accept_suite() {
  return {"accept",
          {{"misconfigured", misconfigured},
           {"a wrapper", [] { loaded(a_wrapper); }},
           {"each way", [] { loaded(each_way); }},
           {"each socket", [] { loaded(each_socket); }},
           {"each end", [] { loaded(each_end); }},
           {"a copy", [] { loaded(a_copy); }},
           {"one at a time", [] { loaded(one_at_a_time); }},
           {"woken in vain", [] { loaded(woken_in_vain); }},
           {"errors of epoll", [] { loaded(errors_of_epoll); }},
           {"its own events", [] { loaded(its_own_events); }},
           {"its signals", [] { loaded(its_signals); }},
           {"handlers of its own", [] { loaded(handlers_of_its_own); }},
           {"addresses", [] { loaded(addresses); }},
           {"behind a proxy", [] { loaded(behind_a_proxy); }},
           {"who may not", [] { loaded(who_may_not); }},
           {"nobody is lost", [] { loaded(nobody_is_lost); }},
           {"deaths", [] { loaded(deaths); }},
           {"it ends by itself", [] { loaded(it_ends_by_itself); }},
           {"a child that accepts", [] { loaded(a_child_that_accepts); }},
           {"preloaded: each way", [] { preloaded(each_way); }},
           {"preloaded: each socket", [] { preloaded(each_socket); }},
           {"preloaded: each end", [] { preloaded(each_end); }},
           {"preloaded: a copy", [] { preloaded(a_copy); }},
           {"preloaded: one at a time", [] { preloaded(one_at_a_time); }},
           {"preloaded: woken in vain", [] { preloaded(woken_in_vain); }},
           {"preloaded: errors of epoll", [] { preloaded(errors_of_epoll); }},
           {"preloaded: its own events", [] { preloaded(its_own_events); }},
           {"preloaded: its signals", [] { preloaded(its_signals); }},
           {"preloaded: handlers of its own", [] { preloaded(handlers_of_its_own); }},
           {"preloaded: addresses", [] { preloaded(addresses); }},
           {"preloaded: behind a proxy", [] { preloaded(behind_a_proxy); }},
           {"preloaded: who may not", [] { preloaded(who_may_not); }},
           {"preloaded: nobody is lost", [] { preloaded(nobody_is_lost); }},
           {"preloaded: deaths", [] { preloaded(deaths); }},
           {"preloaded: it ends by itself", [] { preloaded(it_ends_by_itself); }},
           {"preloaded: a child that accepts", [] { preloaded(a_child_that_accepts); }}}};
}

}  // namespace preforkd::system_test
