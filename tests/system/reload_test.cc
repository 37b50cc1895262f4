// Reloads that need new processes: tried out beside what serves, promoted or rolled back as a whole.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

void expect_reloaded(Server& server, const std::string& config,
                     std::source_location where = std::source_location::current()) {
  server.write_config(config);
  Outcome reload = server.ctl({"reload"});
  expect_equal("exit code of reload: " + reload.err, reload.code, 0, where);
}

// How many supervisors there are, those on trial and those that drain included.
size_t supervisors(Server& server) {
  size_t count = 0;
  for (pid_t pid : server.all_pids()) count += title_of(pid).starts_with("preforkd: supervisor");
  return count;
}

void another_handler_takes_over() {
  Server server({PoolText{.workers = "min = 3; max = 20;"}});
  const std::string address = server.address();
  Client busy(address);
  expect(busy.echoes("before\n"), "echo");
  expect_reloaded(server,
                  config_of({PoolText{.serves = unruly(), .workers = "min = 3; max = 20;"}}));
  Client next(address);
  expect(pid_serving(next) > 0, "the new handler serves");
  expect(busy.echoes("after\n"), "the old one goes on with what it has");
  Json pool = server.pool();
  expect_equal("generation", pool["generation"], 2);
  expect_equal("state", pool["state"], "running");
  expect_equal("accepted", pool["connections"]["accepted"], 2);
  expect_equal("active", pool["connections"]["active"], 2);
  expect_equal("reloads", server.status()["reloads"], 1);
  busy.half_close();
  next.half_close();
  expect(busy.is_ended() && next.is_ended(), "both finish");
  server.wait_for("/connections/served", 2);
  server.wait_until("the old generation is gone", kPatience,
                    [&] { return supervisors(server) == 1 && server.worker_pids().size() == 3; });
  Json after = server.pool();
  expect_equal("accepted", after["connections"]["accepted"], 2);
  expect_equal("crashed", after["lifetime"]["crashed"], 0);
}

// Nor is it the business of pools that stay as they are.
void a_recycle_and_a_stopped_supervisor() {
  Server server({PoolText{.name = "a"}, PoolText{.name = "b"}});
  const pid_t stopped = server.supervisor("a");
  kill(stopped, SIGSTOP);
  const Nanoseconds before = monotonic_now();
  expect_equal("recycle", server.ctl({"recycle", "b"}).code, 0);
  expect(monotonic_now() - before < 4 * kSecond, "it does not wait for a's supervisor");
  expect_equal("which is still there", server.supervisor("a"), stopped);
  kill(stopped, SIGCONT);
  server.wait_for_log("preforkd: pool b: recycled\n");
}

void a_recycle_that_fails() {
  TestFolder folder;
  Server server({PoolText{.serves = unruly("crash_while = \"" + folder.file("crash") + "\";")}});
  folder.write("crash", "");
  expect(server.ctl({"recycle", "echo"}).code != 0, "it fails");
  server.wait_for_log(
      "preforkd: error: pool echo: not recycled, the old generation goes on: pool echo: the new "
      "generation failed: ");
  expect_equal("no reload", occurrences(server.log(), "reload refused"), 0u);
}

// Each way in which a new generation can fail. The old one serves, and nothing is left of the new one.
void what_fails_is_rolled_back() {
  TakenPort taken;
  TestFolder folder;
  const std::string crash = folder.write("crash", "");
  PoolText good{.workers = "min = 2; max = 8;"};
  Server server({good});
  const std::string address = server.address();
  auto with = [&](const std::string& serves, const std::string& timeouts = "") {
    PoolText pool = good;
    pool.serves = serves;
    pool.timeouts = timeouts;
    return config_of({pool});
  };
  PoolText elsewhere = good, added{.name = "added", .serves = unruly("fail_preload = true;")};
  elsewhere.listen = "\"127.0.0.1:0\", " + taken.quoted();
  const struct {
    std::string config, reason;
  } kFailing[] = {
      {with(unruly("fail_preload = true;")), "preload"},
      {with(unruly("crash_while = \"" + crash + "\";")), "killed by signal 6"},
      {with(unruly("start_ms = 60000;"), "start = 0.5;"), "timeouts.start"},
      {with("program = [ \"/no/such/program\" ];"), "/no/such/program"},
      {with("handler = \"no-such\";"), "no-such"},
      {config_of({elsewhere}), "Address already in use"},
      {config_of({good, added}), "preload"},
  };
  const Json before = server.pool();
  for (const auto& row : kFailing) {
    server.write_config(row.config);
    Answer answer = server.request("POST", "/v1/reload");
    expect_equal("status for " + row.reason, answer.status, 409);
    expect_contains("its reason", answer.body, row.reason);
    expect(Client(address).echoes("hello\n"), "served as before");
    expect_equal("generation", server.pool()["generation"], before["generation"]);
    expect_equal("pools", server.status()["pools"].size(), 1u);
    server.wait_until("nothing is left of it", kPatience, [&] { return supervisors(server) == 1; });
  }
  Json after = server.pool();
  expect_equal("state", after["state"], "running");
  expect_equal("reloads", server.status()["reloads"], 0);
  // And then it works again.
  expect_reloaded(server, with(unruly()));
  Client next(address);
  expect(pid_serving(next) > 0, "the new handler serves");
}

void nobody_notices() {
  PoolText pools[2] = {{.workers = "min = 4; max = 30;"},
                       {.workers = "min = 4; max = 30;", .timeouts = "start = 29.0;"}};
  Server server({pools[0]});
  Load load(server.address(), 8);
  uint64_t accepted = 0;
  for (int round = 1; round <= 6; ++round) {
    expect_reloaded(server, config_of({pools[round % 2]}));
    uint64_t done = load.done();
    server.wait_until("the load goes on", kPatience, [&] { return load.done() > done + 20; });
    Json pool = server.pool();
    expect_equal("generation", pool["generation"], round + 1);
    expect(pool["connections"]["accepted"] >= accepted, "accepted fell");
    accepted = pool["connections"]["accepted"];
  }
  load.stop();
  expect_equal("error", load.error(), "");
  server.wait_for("/connections/active", 0);
  server.wait_for("/connections/served", load.done());
  Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  server.wait_until("the old generations are gone", kPatience,
                    [&] { return supervisors(server) == 1; });
}

// It begins with as many workers as the one before had.
void takes_over_at_size() {
  Server server({PoolText{.workers = "min = 2; max = 50; shrink_after = 600.0;"}});
  const std::string address = server.address();
  std::vector<Client> clients;
  for (int i = 0; i < 20; ++i) {
    clients.emplace_back(address);
    expect(clients.back().echoes("hello\n"), "echo");
  }
  Answer recycled = server.request("POST", "/v1/pools/echo/recycle");
  expect_equal("status: " + recycled.body, recycled.status, 200);
  Json pool = server.pool();
  expect(pool["workers"]["idle"] >= 20, "as many workers: " + pool["workers"].dump());
  expect(clients[0].echoes("still here\n"), "the old ones go on");
}

void pools_and_addresses_come_and_go() {
  PoolText one{.name = "one"}, two{.name = "two", .serves = unruly()};
  Server server({one, two});
  const std::string first = server.address("one"), second = server.address("two");
  one.listen = "\"" + first + "\"";
  two.listen = "\"" + second + "\"";
  expect_reloaded(server,
                  config_of({one, two}));  // the same sockets by other names: they are kept open
  Client busy(first);
  expect(busy.echoes("hello\n"), "echo");

  // A pool more, an address more.
  PoolText three{.name = "three"};
  one.listen = "\"" + first + "\", \"unix:@DIR@/one.sock\"";
  expect_reloaded(server, config_of({three, one, two}));
  expect_equal("the first pool", server.status()["pools"][0]["name"], "three");
  expect(Client(server.address("three")).echoes("hello\n"), "the new pool serves");
  const std::string local = "unix:" + server.folder().file("one.sock");
  expect(Client(local).echoes("hello\n"), "so does the new address");

  // An address moves from one pool to another; a pool goes.
  const std::string third = server.address("three");
  one.listen = "\"" + first + "\", \"" + second + "\"";
  expect_reloaded(server, config_of({one}));
  expect(Client(second).echoes("hello\n"), "served by the other pool now");
  wait_until("the pool that is gone refuses", kPatience,
             [&] { return !Client::try_connect(third).has_value(); });
  wait_until("so does the address that is gone", kPatience,
             [&] { return !Client::try_connect(local).has_value(); });
  expect_equal("its file is there", access(server.folder().file("one.sock").c_str(), F_OK), -1);
  expect(busy.echoes("still here\n"), "the first client goes on");
  server.wait_until("one pool is left", kPatience,
                    [&] { return server.status()["pools"].size() == 1; });
  busy.half_close();
  expect(busy.is_ended(), "and finishes");
  server.wait_until("nobody else is left", kPatience, [&] { return supervisors(server) == 1; });
}

// Each entry keeps the socket that it has.
void the_same_entry_twice() {
  const std::string config = config_of({PoolText{.listen = "\"127.0.0.1:0\", \"127.0.0.1:0\""}});
  Server server(config);
  const std::string first = server.address("echo", 0), second = server.address("echo", 1);
  auto expect_both = [&](const std::string& after) {
    expect_equal("sockets after " + after, server.pool()["listen"].size(), 2u);
    expect_equal("the first after " + after, server.address("echo", 0), first);
    expect_equal("the second after " + after, server.address("echo", 1), second);
    for (const std::string& address : {first, second})
      expect(Client(address).echoes("hello\n"), address + " serves after " + after);
  };
  expect_both("the start");
  expect_reloaded(server, config);
  expect_equal("generation", server.pool()["generation"], 1);
  expect_both("a reload");
  expect_equal("exit code of recycle", server.ctl({"recycle", "echo"}).code, 0);
  expect_both("a recycle");
}

// Taken out of the file and put back while it still serves somebody: the same pool goes on.
void a_pool_comes_back() {
  PoolText one{.name = "one"}, two{.name = "two"};
  Server server({one, two});
  Client busy(server.address("two"));
  expect(busy.echoes("hello\n"), "echo");
  for (int round = 1; round <= 3; ++round) {
    expect_reloaded(server, config_of({one}));
    expect_equal("state", server.pool("two")["state"], "draining");
    two.serves = unruly("fail_preload = true;");
    server.write_config(config_of({one, two}));
    expect_equal("status of one that fails", server.request("POST", "/v1/reload").status, 409);
    expect_equal("state", server.pool("two")["state"], "draining");
    two.serves = unruly();
    expect_reloaded(server, config_of({one, two}));
    Client next(server.address("two"));
    expect(pid_serving(next) > 0, "it serves");
    expect(busy.echoes("still here\n"), "so does the one before");
    expect_equal("accepted", server.pool("two")["connections"]["accepted"], round + 1);
  }
  busy.half_close();
  expect(busy.is_ended(), "it finishes");
  server.wait_for("/connections/active", 0, "two");
  server.wait_until("two generations are left", kPatience,
                    [&] { return supervisors(server) == 2; });
  expect_equal("state", server.pool("two")["state"], "running");
  server.wait_for_one_generation("two");
}

// Of two pools one is slow to start: the other's new generation waits for it, ready, and beside the old one.
struct TwoPools {
  PoolText quick{.name = "quick", .serves = unruly(), .workers = "min = 3; max = 9;"},
      slow{.name = "slow", .serves = unruly(), .workers = "min = 1; max = 4;"};
  Server server{{quick, slow}};
  std::string address = server.address("quick");
  pid_t old = server.supervisor("quick");
  Answer answer;
  std::jthread asking;
  pid_t next = 0;

  // Until `quick` has passed; `slow` starts when the file is gone.
  void reload_until_one_has_passed() {
    quick.serves = unruly("starts = \"/dev/null\";");
    slow.serves = unruly("start_while = \"" + server.folder().write("wait", "") + "\";");
    server.write_config(config_of({quick, slow}));
    asking = std::jthread([this] { answer = server.request("POST", "/v1/reload"); });
    server.wait_for_log("pool quick: the new generation has passed");
    for (pid_t pid : children_of(server.pid()))
      if (title_of(pid) == "preforkd: supervisor quick" && pid != old) next = pid;
  }
  void end_of_waiting() {
    unlink(server.folder().file("wait").c_str());
    asking.join();
  }
};

void expect_served_by(pid_t supervisor, const std::string& address) {
  for (int i = 0; i < 50; ++i) {
    Client client(address);
    const pid_t pid = pid_serving(client);
    const std::vector<pid_t> workers = children_of(supervisor);
    expect(std::find(workers.begin(), workers.end(), pid) != workers.end(),
           "served by a worker of this generation");
  }
}

void a_trial_accepts_nobody() {
  TwoPools pools;
  pools.reload_until_one_has_passed();
  expect_served_by(pools.old, pools.address);
  pools.end_of_waiting();
  expect_equal("status: " + pools.answer.body, pools.answer.status, 200);
  expect_served_by(pools.next, pools.address);
}

void a_trial_that_dies_late() {
  TwoPools pools;
  pools.reload_until_one_has_passed();
  kill(pools.next, SIGKILL);
  pools.server.wait_until("its end is known", kPatience,
                          [&] { return supervisors(pools.server) == 2; });
  pools.end_of_waiting();
  expect_equal("status", pools.answer.status, 409);
  expect_contains("the reason", pools.answer.body, "killed by signal 9");
  Client client(pools.address);
  expect(pid_serving(client) > 0, "the old generation serves");
  expect_equal("supervisor", pools.server.supervisor("quick"), pools.old);
}

// While somebody is still being served there, and nobody waits.
void a_dropped_address_refuses() {
  PoolText pool{.listen = "\"127.0.0.1:0\", \"127.0.0.2:0\""};
  Server server({pool});
  for (int round = 0; round < 5; ++round) {
    const std::string second = server.address("echo", 1);
    Client busy(second);
    expect(busy.echoes("hello\n"), "echo");
    pool.listen = "\"127.0.0.1:0\"";
    expect_reloaded(server, config_of({pool}));
    expect(!Client::try_connect(second), "it refuses");
    expect(busy.echoes("still here\n"), "who is there goes on");
    pool.listen = "\"127.0.0.1:0\", \"127.0.0.2:0\"";
    expect_reloaded(server, config_of({pool}));
  }
}

// Who waits on an address that goes is served.
void a_dropped_address_serves_its_queue() {
  PoolText pool{.listen = "\"127.0.0.1:0\", \"unix:@DIR@/b.sock\"",
                .serves = unruly(),
                .workers = "min = 1; max = 1; min_spare = 0;"};
  Server server({pool});
  const std::string local = server.address("echo", 1);
  Client busy(server.address());
  pid_serving(busy);
  std::vector<Client> waiting;
  for (int i = 0; i < 4; ++i) {
    waiting.emplace_back(local);
    waiting.back().send("p");
    waiting.back().half_close();
  }
  server.wait_for("/backlog/queued", 4);
  pool.listen = "\"127.0.0.1:0\"";
  expect_reloaded(server, config_of({pool}));
  busy.half_close();
  for (Client& client : waiting) expect(!client.read_line().empty(), "one who waited is served");
  wait_until("refused", kPatience, [&] { return !Client::try_connect(local).has_value(); });
}

void recycle_loads_new_code() {
  namespace fs = std::filesystem;
  const fs::path handlers = fs::path(built("handlers"));
  TestFolder folder;
  const std::string mine = folder.file("mine.so");
  fs::copy_file(handlers / "echo.so", mine);
  Server server({PoolText{.serves = "handler = \"" + mine + "\";"}});
  const std::string address = server.address();
  expect(Client(address).echoes("hello\n"), "echo");
  expect_equal("set", server.ctl({"set", "echo", "min=6"}).code, 0);
  fs::copy_file(handlers / "discard.so", folder.file("next.so"));
  fs::rename(folder.file("next.so"), mine);
  expect_equal("exit code of recycle", server.ctl({"recycle", "echo"}).code, 0);
  Client client(address);
  client.send("hello\n");
  client.half_close();
  expect_equal("the answer of discard", client.read_until_eof(), "");
  expect_equal("a limit that was set", server.pool()["limits"]["min"], 6);
  expect_equal("generation", server.pool()["generation"], 2);
  expect_equal("reloads", server.status()["reloads"], 0);
  folder.write("mine.so", "not a handler\n");
  Outcome refused = server.ctl({"recycle", "echo"});
  expect_equal("exit code of recycle", refused.code, 1);
  expect_contains("its reason", refused.err, "mine.so");
  expect_equal("no such pool", server.request("POST", "/v1/pools/none/recycle").status, 404);
}

void a_drain_that_takes_too_long() {
  PoolText pool{.serves = unruly(), .timeouts = "drain = 0.5;"};
  Server server({pool});
  Client stuck(server.address()), stubborn(server.address());
  stuck.send("b");
  stubborn.send("t");
  server.wait_for("/workers/busy", 2);
  expect_equal("exit code of recycle", server.ctl({"recycle", "echo"}).code, 0);
  expect(stuck.is_ended() && stubborn.is_ended(), "ended by TERM, and by KILL");
  server.wait_for("/lifetime/timed_out", 2);
  server.wait_for("/connections/failed", 2);
  Client next(server.address());
  expect(pid_serving(next) > 0, "the new generation serves");
}

void one_at_a_time() {
  PoolText slow{.serves = unruly("start_ms = 1500;"), .workers = "min = 1; max = 4;"};
  Server server({PoolText{.workers = "min = 1; max = 4;"}});
  const std::string address = server.address();
  server.write_config(config_of({slow}));
  server.signal(SIGHUP);
  server.wait_until("it is on trial", kPatience, [&] { return supervisors(server) == 2; });
  Answer second = server.request("POST", "/v1/reload");
  expect_equal("status of a second one", second.status, 409);
  expect_contains("its reason", second.body, "under way");
  expect_equal("drain", server.request("POST", "/v1/pools/echo/drain").status, 409);
  slow.workers = "min = 3; max = 4;";
  server.write_config(config_of({slow}));
  server.signal(SIGHUP);  // has nobody to tell: done again when the first is over
  server.wait_for("/generation", 2);
  server.wait_for("/limits/min", 3);
  server.wait_until("two reloads are counted", kPatience,
                    [&] { return server.status()["reloads"] == 2; });
}

void a_signal_during_a_recycle() {
  TestFolder folder;
  const std::string start = folder.file("start");
  PoolText pool{.serves = unruly("start_while = \"" + start + "\";"),
                .workers = "min = 1; max = 4;"};
  Server server({pool});
  folder.write("start", "");
  Answer recycled;
  std::jthread recycle([&] { recycled = server.request("POST", "/v1/pools/echo/recycle"); });
  server.wait_until("it is on trial", kPatience, [&] { return supervisors(server) == 2; });
  pool.workers = "min = 3; max = 4;";
  server.write_config(config_of({pool}));
  server.signal(SIGHUP);
  // By then it has been heard of.
  expect_equal("drain", server.request("POST", "/v1/pools/echo/drain").status, 409);
  unlink(start.c_str());
  recycle.join();
  expect_equal("the recycle", recycled.status, 200);
  server.wait_for("/generation", 2);
  server.wait_for("/limits/min", 3);
}

void a_stop_comes_between() {
  Server server({PoolText{}});
  Client busy(server.address());
  expect(busy.echoes("hello\n"), "echo");
  server.write_config(config_of({PoolText{.serves = unruly("start_ms = 60000;")}}));
  server.signal(SIGHUP);
  server.wait_until("it is on trial", kPatience, [&] { return supervisors(server) == 2; });
  server.signal(SIGTERM);
  server.wait_for_log("nothing was changed: preforkd is stopping");
  expect(busy.echoes("still here\n"), "the busy one goes on");
  busy.half_close();
  expect_equal("exit code", server.wait_exit(), 0);
}

// The serving supervisor dies while its successor is on trial.
void the_old_one_dies_meanwhile() {
  Server server({PoolText{.workers = "min = 2; max = 9;"}});
  const std::string address = server.address();
  const pid_t old = server.supervisor();
  server.write_config(
      config_of({PoolText{.serves = unruly("start_ms = 1000;"), .workers = "min = 2; max = 9;"}}));
  server.signal(SIGHUP);
  server.wait_until("it is on trial", kPatience, [&] { return supervisors(server) == 2; });
  kill(old, SIGKILL);
  expect(Client(address).echoes("hello\n"), "its own successor serves");
  server.wait_for("/generation", 2);
  server.wait_until("one generation is left", kPatience, [&] { return supervisors(server) == 1; });
  Client client(address);
  expect(pid_serving(client) > 0, "the new handler serves");
  expect_equal("state", server.pool()["state"], "running");
}

void on_demand_pools() {
  PoolText pool{.serves = unruly(), .workers = "min = 0; max = 4; min_spare = 0; max_spare = 0;"};
  Server server({pool});
  const std::string address = server.address();
  for (int round = 0; round < 3; ++round) {
    expect_equal("exit code of recycle", server.ctl({"recycle", "echo"}).code, 0);
    Client client(address);
    expect(pid_serving(client) > 0, "a worker is made for it");
  }
}

void the_page_moves() {
  TakenPort port;
  const std::string config = config_of({PoolText{}});
  Server server(config);
  const std::string web = "127.0.0.1:" + std::to_string(port.number());
  auto with_web = [&](const std::string& where) {
    std::string text = config;
    const std::string off = "web = \"\"";
    size_t at = text.find(off);
    if (at == text.npos) throw Failure("the configuration does not say: " + off);
    return text.replace(at, off.size(), "web = \"" + where + "\"");
  };
  server.write_config(with_web(web));
  Outcome refused = server.ctl({"reload"});
  expect_equal("exit code of reload", refused.code, 1);
  expect_contains("its reason", refused.err, "Address already in use");
  port.free();
  expect_reloaded(server, with_web(web));
  Client page(web);
  page.send("GET /metrics HTTP/1.1\r\nHost: " + web + "\r\nConnection: close\r\n\r\n");
  expect_contains("the page", page.read_until_eof(), "200 OK");
  expect_reloaded(server, config);
  wait_until("it is off", kPatience, [&] { return !Client::try_connect(web).has_value(); });
  expect_equal("generation", server.pool()["generation"], 1);
}

}  // namespace

Suite reload_suite() {
  return {"reload",
          {{"a recycle and a stopped supervisor", a_recycle_and_a_stopped_supervisor},
           {"a recycle that fails", a_recycle_that_fails},
           {"another handler takes over", another_handler_takes_over},
           {"what fails is rolled back", what_fails_is_rolled_back},
           {"nobody notices", nobody_notices},
           {"takes over at size", takes_over_at_size},
           {"pools and addresses come and go", pools_and_addresses_come_and_go},
           {"the same entry twice", the_same_entry_twice},
           {"a pool comes back", a_pool_comes_back},
           {"a trial accepts nobody", a_trial_accepts_nobody},
           {"a trial that dies late", a_trial_that_dies_late},
           {"a dropped address refuses", a_dropped_address_refuses},
           {"a dropped address serves its queue", a_dropped_address_serves_its_queue},
           {"recycle loads new code", recycle_loads_new_code},
           {"a drain that takes too long", a_drain_that_takes_too_long},
           {"one at a time", one_at_a_time},
           {"a signal during a recycle", a_signal_during_a_recycle},
           {"a stop comes between", a_stop_comes_between},
           {"the old one dies meanwhile", the_old_one_dies_meanwhile},
           {"on demand", on_demand_pools},
           {"the page moves", the_page_moves}}};
}

}  // namespace preforkd::system_test
