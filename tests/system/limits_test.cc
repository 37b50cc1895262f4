// Limits that are moved while the pool runs: by request, by preforkctl, for a while, by reload.
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr char kPath[] = "/v1/pools/echo/limits";

void up_and_down_at_once() {
  Server server({PoolText{.workers = "min = 2; max = 20; min_spare = 1; shrink_after = 600.0;"}});
  Answer answer = server.request("PATCH", kPath, R"({"min": 9})");
  expect_equal("status", answer.status, 200);
  expect_equal("min in the answer", answer.json()["limits"]["min"], 9);
  server.wait_for("/workers/idle", 9);
  Outcome set = server.ctl({"set", "echo", "min=1", "max=3"});
  expect_equal("exit code of set", set.code, 0);
  // (One more than necessary may have left, who was on its way when the rest was counted: shm/tickets.h.)
  server.wait_until("as many processes as workers, 2 or 3", kPatience, [&] {
    const size_t total = server.pool()["workers"]["total"];
    return total >= 2 && total <= 3 && server.worker_pids().size() == total;
  });
  expect_equal("max", server.pool()["limits"]["max"], 3);
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void max_below_the_busy() {
  Server server({PoolText{.workers = "min = 1; max = 20; max_spare = 2; shrink_after = 600.0;"}});
  std::vector<Client> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back(server.address());
    expect(clients.back().echoes("hello\n"), "echo");
  }
  expect_equal("status", server.request("PATCH", kPath, R"({"max": 2})").status, 200);
  server.wait_for("/workers/total", 6);  // idle ones have left
  for (Client& client : clients)
    expect(client.echoes("still here\n"), "a busy one is not disturbed");
  Client late(server.address());
  late.send("late\n");
  server.wait_for("/backlog/queued", 1);
  while (clients.size() > 2) clients.pop_back();
  server.wait_for("/workers/total", 2);
  expect(!late.has_answer(), "two are busy and there may be two");
  clients.pop_back();
  expect_equal("the one who waited", late.read_line(), "late");
  expect(clients[0].echoes("still here\n"), "the last of the first");
}

void what_is_refused_changes_nothing() {
  Server server({PoolText{.workers = "min = 2; max = 20;"}});
  const Json before = server.pool()["limits"];
  const struct {
    const char* body;
    long status;
  } kRefused[] = {{R"({"min": 10, "max": 5})", 409},
                  {R"({"min": 21})", 409},
                  {R"({"max": 1})", 409},
                  {R"({"min_spare": 9, "max_spare": 3})", 409},
                  {R"({"max": 0})", 400},
                  {R"({"max": 5000})", 409},
                  {R"({"max": 70000})", 400},
                  {R"({"max_spare": 65537})", 400},
                  {R"({"min": 2, "max": 40, "max_spare": 1})", 409},
                  {R"({"min": "two"})", 400},
                  {R"({"min": 2.5})", 400},
                  {R"({"min": -1})", 400},
                  {R"({"mni": 2})", 400},
                  {R"({"shrink_after": "soon"})", 400},
                  {R"({"shrink_after": 0})", 400},
                  {R"({"shrink_after": 0.001})", 400},
                  {R"([])", 400},
                  {R"({"min": 3)", 400},
                  {R"({"min": 3, "for": "a while"})", 400}};
  for (const auto& row : kRefused) {
    Answer answer = server.request("PATCH", kPath, row.body);
    expect_equal(std::string("status of ") + row.body, answer.status, row.status);
    expect(answer.json().contains("error"), std::string("a reason for ") + row.body);
    expect(server.pool()["limits"] == before, std::string("nothing changed by ") + row.body);
  }
  expect_equal("an unknown pool", server.request("PATCH", "/v1/pools/none/limits", "{}").status,
               404);
  Outcome set = server.ctl({"set", "echo", "min=30"});
  expect_equal("exit code of set", set.code, 1);
  expect_contains("its reason", set.err, "min 30 is above max 20");
  set = server.ctl({"set", "echo", "min=30", "min_spare=9", "max_spare=3"});
  expect_contains("both reasons", set.err,
                  "min 30 is above max 20; min_spare 9 is above max_spare 3");
}

void capacity_is_what_can_be_used() {
  Server server({PoolText{.workers = "min = 2; max = 20;"}});
  expect_equal("up to the capacity", server.request("PATCH", kPath, R"({"max": 1024})").status,
               200);
  expect_equal("not beyond", server.request("PATCH", kPath, R"({"max": 1025})").status, 409);
}

void for_a_while() {
  Server server({PoolText{
      .workers = "min = 2; max = 20; min_spare = 1; max_spare = 1; shrink_after = 0.3;"}});
  Outcome set = server.ctl({"set", "echo", "min=7", "--for", "2"});
  expect_equal("exit code of set", set.code, 0);
  expect_equal("min", server.pool()["limits"]["min"], 7);
  server.wait_for("/workers/total", 7);
  server.wait_for("/limits/min", 2);
  server.wait_for("/workers/total", 2);
  // The second loan runs longer; what comes back is what was before the first.
  server.ctl({"set", "echo", "min=5", "--for", "600"});
  server.ctl({"set", "echo", "min=6", "--for", "2"});
  expect_equal("min", server.pool()["limits"]["min"], 6);
  server.wait_for("/limits/min", 2);
}

// What is set for good meanwhile outlasts it, and so does what a reload brings.
void for_a_while_and_for_good() {
  Server server({PoolText{.workers = "min = 2; max = 20; min_spare = 1; max_spare = 1;"}});
  server.ctl({"set", "echo", "max=10", "--for", "2"});
  server.ctl({"set", "echo", "min=3"});
  expect_equal("max", server.pool()["limits"]["max"], 10);
  server.wait_for("/limits/max", 20);
  expect_equal("min", server.pool()["limits"]["min"], 3);

  server.ctl({"set", "echo", "max=30", "--for", "600"});
  Outcome refused = server.ctl({"set", "echo", "min=25"});
  expect_equal("min above what max will be", refused.code, 1);
  expect_contains("its reason", refused.err, "back to what they were: min 25 is above max 20");

  server.ctl({"set", "echo", "max=7", "--for", "1"});
  server.write_config(
      config_of({PoolText{.workers = "min = 3; max = 7; min_spare = 1; max_spare = 1;"}}));
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  server.ctl({"set", "echo", "min=4", "--for", "1.5"});  // over when the one before would be
  server.wait_for("/limits/min", 3);
  expect_equal("max", server.pool()["limits"]["max"], 7);
}

PoolText with_min(int min) {
  return {.workers =
              "min = " + std::to_string(min) + "; max = 20; min_spare = 1; shrink_after = 600.0;"};
}

// What is set while a reload is tried out ends with it.
void set_during_a_trial() {
  PoolText pool{.serves = unruly(), .workers = "min = 2; max = 4;"};
  Server server({pool});
  const std::string wait = server.folder().write("wait", "");
  pool.serves = unruly("start_while = \"" + wait + "\";");
  pool.workers = "min = 1; max = 8;";
  server.write_config(config_of({pool}));
  Outcome reload;
  {
    std::jthread asking([&] { reload = server.ctl({"reload"}); });
    server.wait_until("it is tried out", kPatience,
                      [&] { return server.pool()["generations"].size() == 2; });
    expect_equal("set", server.ctl({"set", "echo", "min=3", "--for", "600"}).code, 0);
    unlink(wait.c_str());
  }
  expect_equal("reload: " + reload.err, reload.code, 0);
  const Json limits = server.pool()["limits"];
  expect_equal("min", limits["min"], 1);
  expect_equal("max", limits["max"], 8);
}

void reload_of_limits() {
  Server server({with_min(2)});
  std::string address = server.address();
  server.write_config(config_of({with_min(5)}));
  Outcome reload = server.ctl({"reload"});
  expect_equal("exit code of reload: " + reload.err, reload.code, 0);
  expect_equal("min", server.pool()["limits"]["min"], 5);
  server.wait_for("/workers/total", 5);
  expect_equal("reloads", server.status()["reloads"], 1);
  server.write_config(config_of({with_min(7)}));
  server.signal(SIGHUP);
  server.wait_for("/limits/min", 7);
  server.wait_for("/workers/total", 7);
  server.wait_until("it is counted", kPatience, [&] { return server.status()["reloads"] == 2; });
  expect_equal("the address", server.address(), address);
  expect_equal("generation", server.pool()["generation"], 1);
}

void reload_of_a_broken_file() {
  Server server({with_min(2)});
  const struct {
    std::string config, message;
  } kBroken[] = {
      {"pools = (", "preforkd.conf:"},
      {config_of({PoolText{.workers = "min = 9; max = 5;"}}), "min 9 is above max 5"},
      {config_of({PoolText{.serves = "handler = \"no-such-handler\";"}}), "no-such-handler"},
      {config_of({PoolText{.more = "lsiten = 1;"}}), "did you mean"}};
  for (const auto& row : kBroken) {
    server.write_config(row.config);
    Outcome reload = server.ctl({"reload"});
    expect_equal("exit code of reload", reload.code, 1);
    expect_contains("its reason", reload.err, row.message);
    server.wait_for_log(row.message);
    const size_t told = occurrences(server.log(), row.message);
    server.signal(SIGHUP);
    server.wait_until("the log has the reason again", kPatience,
                      [&] { return occurrences(server.log(), row.message) > told; });
    expect_equal("min", server.pool()["limits"]["min"], 2);
    expect(Client(server.address()).echoes("hello\n"), "served as before");
  }
  expect_equal("reloads", server.status()["reloads"], 0);
}

}  // namespace

Suite limits_suite() {
  return {"limits",
          {{"up and down at once", up_and_down_at_once},
           {"max below the busy", max_below_the_busy},
           {"what is refused changes nothing", what_is_refused_changes_nothing},
           {"capacity is what can be used", capacity_is_what_can_be_used},
           {"for a while", for_a_while},
           {"for a while and for good", for_a_while_and_for_good},
           {"set during a trial", set_during_a_trial},
           {"reload of limits", reload_of_limits},
           {"reload of a broken file", reload_of_a_broken_file}}};
}

}  // namespace preforkd::system_test
