// How big the pool is: bursts, limits, demand, and the decisions that say why.
#include <algorithm>

#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr double kShrunk = 20;  // seconds; for a pool whose shrink_after is at most 1

std::vector<Client> connect_many(const std::string& address, int count) {
  std::vector<Client> clients;
  for (int i = 0; i < count; ++i) clients.emplace_back(address);
  return clients;
}

void a_burst_is_answered_and_let_go() {
  Server server({PoolText{
      .workers = "min = 3; max = 100; min_spare = 2; max_spare = 4; shrink_after = 0.5;"}});
  expect_equal("workers at rest", server.pool()["workers"]["total"], 3);
  std::vector<Client> clients = connect_many(server.address(), 60);
  for (Client& client : clients) client.send("hello\n");
  for (Client& client : clients) expect_equal("answer", client.read_line(), "hello");
  server.wait_until("60 are busy and at least 2 idle", kPatience, [&] {
    Json workers = server.pool()["workers"];
    return workers["busy"] == 60 && workers["idle"] >= 2 && workers["starting"] == 0;
  });
  Json pool = server.pool();
  expect(pool["workers"]["total"] <= 70,
         "not many more than are needed: " + pool["workers"].dump());
  expect_equal("peak", pool["peak_busy"], 60);
  expect_equal("utilization now", pool["utilization"]["now"].get<double>() > 0.8, true);
  clients.clear();
  server.wait_for("/workers/total", 3, "echo", kShrunk);
  server.wait_until("as many processes", kPatience,
                    [&] { return server.worker_pids().size() == 3; });
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void never_more_than_max() {
  Server server({PoolText{.workers = "min = 2; max = 5; shrink_after = 0.5;"}});
  std::vector<Client> clients = connect_many(server.address(), 9);
  for (Client& client : clients) client.send("hello\n");
  server.wait_for("/workers/busy", 5);
  server.wait_for("/backlog/queued", 4);
  server.wait_until("a decision says that the pool is at max", kPatience, [&] {
    Json decisions = server.decisions();
    return std::any_of(decisions.begin(), decisions.end(), [](const Json& d) {
      return d["action"] == "hold" && d["reason"] == "at_max";
    });
  });
  server.wait_for_log("all 5 workers (workers.max) are in use");
  for (int sample = 0; sample < 50; ++sample)
    expect(server.worker_pids().size() <= 5, "more processes than max");
  auto have_answer = [](Client& client) { return client.has_answer(); };
  server.wait_until("those in service are answered", kPatience,
                    [&] { return std::ranges::count_if(clients, have_answer) >= 5; });
  auto answered = std::partition(clients.begin(), clients.end(), have_answer);
  expect_equal("answered", answered - clients.begin(), 5);
  std::vector<Client> waiting(std::make_move_iterator(answered),
                              std::make_move_iterator(clients.end()));
  clients.clear();
  for (Client& client : waiting) expect_equal("answer after a wait", client.read_line(), "hello");
  expect(server.pool()["seconds_at_max"] > 0, "the time at max is counted");
}

void max_holds_while_workers_come_and_go() {
  Server server({PoolText{
      .workers =
          "min = 1; max = 4; min_spare = 1; max_spare = 1; shrink_after = 0.2; connections = 5;"}});
  Load load(server.address(), 8);
  size_t most = 0;
  for (int sample = 0; sample < 200; ++sample) most = std::max(most, server.worker_pids().size());
  load.stop();
  expect_equal("error", load.error(), "");
  expect(most <= 4, "at most 4 processes, found " + std::to_string(most));
}

void on_demand() {
  Server server({PoolText{
      .workers = "min = 0; max = 10; min_spare = 0; max_spare = 0; shrink_after = 0.3;"}});
  for (int round = 0; round < 3; ++round) {
    server.wait_for("/workers/total", 0, "echo", kShrunk);
    server.wait_until("no process is left", kPatience,
                      [&] { return server.worker_pids().empty(); });
    Client first(server.address());
    expect(first.echoes("first\n"), "the first client is served");
    Client second(server.address());
    expect(second.echoes("second\n"), "so is one who comes meanwhile");
  }
}

void second_client_without_spare() {
  Server server({PoolText{.workers = "min = 1; max = 10; min_spare = 0; max_spare = 0;"}});
  Client first(server.address());
  expect(first.echoes("first\n"), "the first");
  Client second(server.address());
  expect(second.echoes("second\n"), "the second, while the first stays");
  Client third(server.address());
  expect(third.echoes("third\n"), "and the third");
}

void a_static_pool_stays_as_it_is() {
  Server server({PoolText{.workers = "min = 4; max = 4; min_spare = 2; shrink_after = 0.3;"}});
  std::vector<pid_t> before = server.worker_pids();
  std::vector<Client> clients = connect_many(server.address(), 6);
  for (Client& client : clients) client.send("hello\n");
  server.wait_for("/workers/busy", 4);
  server.wait_for("/backlog/queued", 2);
  for (int i = 0; i < 6; ++i) {
    auto answered = clients.end();
    server.wait_until("one more has its answer", kPatience, [&] {
      answered =
          std::find_if(clients.begin(), clients.end(), [](Client& c) { return c.has_answer(); });
      return answered != clients.end();
    });
    expect_equal("answer", answered->read_line(), "hello");
    clients.erase(answered);
  }
  server.wait_for("/connections/served", 6);
  std::vector<pid_t> after = server.worker_pids();
  std::sort(before.begin(), before.end());
  std::sort(after.begin(), after.end());
  expect(before == after, "the same four workers");
  expect_equal("forked", server.pool()["lifetime"]["forked"], 4);
}

void decisions_say_why() {
  Server server({PoolText{
      .workers = "min = 2; max = 40; min_spare = 1; max_spare = 2; shrink_after = 0.3;"}});
  std::vector<Client> clients = connect_many(server.address(), 10);
  for (Client& client : clients) expect(client.echoes("hello\n"), "echo");
  clients.clear();
  server.wait_for("/workers/total", 2, "echo", kShrunk);
  Json decisions = server.decisions();
  if (!expect(decisions.size() >= 3, "three decisions at least")) return;
  expect_equal("the first", decisions[0]["reason"], "below_min");
  expect_equal("its count", decisions[0]["count"], 2);
  int grown = 0, shrunk = 0, last_number = 0;
  for (const Json& d : decisions) {
    expect(d["number"] > last_number, "numbers rise");
    last_number = d["number"];
    expect(!d["text"].get<std::string>().empty(), "it has a text");
    if (d["action"] == "grow") grown += d["count"].get<int>();
    if (d["action"] == "shrink") {
      shrunk += d["count"].get<int>();
      expect_equal("why it shrank", d["reason"], "surplus");
    }
    if (d["action"] == "grow" && d["number"] != 1)
      expect_equal("why it grew", d["reason"], "demand");
  }
  Json lifetime = server.pool()["lifetime"];
  expect_equal("workers forked", lifetime["forked"], grown);
  expect(lifetime["retired"] <= shrunk && lifetime["retired"] == grown - 2,
         "workers retired: " + lifetime.dump() + ", told to: " + std::to_string(shrunk));
  Outcome why = server.ctl({"why", "echo"});
  expect_equal("exit code of why", why.code, 0);
  expect_contains("why", why.out, decisions[0]["text"]);
}

}  // namespace

Suite sizing_suite() {
  return {"sizing",
          {{"a burst is answered at once and let go", a_burst_is_answered_and_let_go},
           {"never more than max, the rest waits", never_more_than_max},
           {"max holds while workers come and go", max_holds_while_workers_come_and_go},
           {"on demand: none at rest", on_demand},
           {"no spare: a second client is served", second_client_without_spare},
           {"a static pool stays as it is", a_static_pool_stays_as_it_is},
           {"decisions say why", decisions_say_why}}};
}

}  // namespace preforkd::system_test
