// What a handler may ask of preforkd, and what preforkd does about a worker that is worn out.
#include <signal.h>
#include <unistd.h>

#include <set>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/diary.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

pid_t pid_of(Client& client) { return std::stoi(ask(client, "pid")); }

// What the listing of workers says of the one that serves `client`.
Json worker_of(Server& server, Client& client) {
  const pid_t pid = pid_of(client);
  for (const Json& worker : server.workers())
    if (worker["pid"] == pid) return worker;
  throw Failure("no worker " + std::to_string(pid) + " is listed");
}

void notes() {
  Server server({PoolText{.serves = kDiary, .workers = "min = 1; max = 2; min_spare = 1;"}});
  Client client(server.address());
  expect_equal("before", worker_of(server, client)["note"], Json(nullptr));
  ask(client, "note GET /x");
  expect_equal("noted", worker_of(server, client)["note"], "GET /x");
  Outcome listed = server.ctl({"workers", "echo"});
  expect(listed.out.find("GET /x") != std::string::npos, "preforkctl workers: " + listed.out);
  ask(client, "note \x1b[31mred \xc3\xa4\x7f");
  expect_equal("no control characters", worker_of(server, client)["note"], "?[31mred ???");
  ask(client, "note " + std::string(1000, 'n'));
  expect_equal("cut", worker_of(server, client)["note"], std::string(127, 'n'));
  ask(client, "note ");
  expect_equal("taken back", worker_of(server, client)["note"], Json(nullptr));
  ask(client, "note the last one");
  client.half_close();
  client.read_until_eof();
  server.wait_for("/connections/served", 1);
  for (const Json& worker : server.workers())
    expect_equal("after the connection", worker["note"], Json(nullptr));
  Client next(server.address());
  expect_equal("the next one's", worker_of(server, next)["note"], Json(nullptr));
}

void addresses_and_log() {
  Server server({PoolText{.serves = kDiary}});
  Client client(server.address());
  expect_equal("local", ask(client, "local"), server.address());
  ask(client, "log dear diary");
  server.wait_for_log("dear diary");
}

// What a library registered in preload is told of each fork, and in which process.
void told_of_forks() {
  Server server({PoolText{.serves = kDiary}});
  Client client(server.address());
  const std::string pid = ask(client, "pid");
  expect_equal("parent and child", ask(client, "forked_from"),
               std::to_string(server.supervisor()) + " " + pid);
}

void the_first_version() {
  Server server({PoolText{.serves = "handler = \"@HANDLERS@/abi_1.so\";"}});
  server.wait_for_log("of the first version");
  Client client(server.address());
  expect_equal("it serves", client.read_until_eof(), "echo");
  server.wait_for("/connections/served", 1);
}

void slow() {
  Server server({PoolText{.serves = kDiary, .timeouts = "slow = 2.0;"}});
  Client quick(server.address()), client(server.address());
  ask(client, "note SELECT 1");
  ask(quick, "pid");
  const std::string quick_address = quick.own_address();
  quick.close();
  const std::string told = "has served " + client.own_address() + " (SELECT 1) for ";
  server.wait_until("it is logged", kPatience,
                    [&] { return occurrences(server.log(), told) == 1; });
  expect(server.log().find(" ms so far (timeouts.slow)") != std::string::npos, "so far");
  // Another one that is slow is told of, too; this one not again, and it goes on.
  Client second(server.address());
  ask(second, "pid");
  server.wait_until("the second is logged", kPatience, [&] {
    return occurrences(server.log(), "has served " + second.own_address()) == 1;
  });
  expect_equal("once", occurrences(server.log(), client.own_address()), size_t{1});
  expect_equal("it goes on", ask(client, "note x"), "done");
  expect_equal("the quick one is not told of", occurrences(server.log(), quick_address), size_t{0});
}

void extended() {
  Server server({PoolText{.serves = kDiary, .timeouts = "connection = 2.0;"}});
  Client extended(server.address());
  expect_equal("more time", ask(extended, "extend 60000"), "done");
  Client other(server.address());
  ask(other, "note too long");
  expect(other.is_ended(), "one that came later is ended");
  server.wait_for("/lifetime/timed_out", 1);
  server.wait_for_log("(too long)");
  expect_equal("the extended one goes on", ask(extended, "pid").empty(), false);
  const Nanoseconds began = monotonic_now();
  Client little(server.address());
  expect_equal("a little more", ask(little, "extend 4000"), "done");
  expect_equal("it is not made shorter", ask(little, "extend 1"), "done");
  expect(little.is_ended(), "it is ended when that is over, too");
  expect(monotonic_now() - began > 3900 * kMillisecond, "not before");
  expect_equal("and that one still goes on", ask(extended, "pid").empty(), false);
}

void asked_for() {
  Server server({PoolText{.serves = kDiary, .workers = "min = 2; max = 3; min_spare = 1;"}});
  Client client(server.address());
  const pid_t pid = pid_of(client);
  ask(client, "recycle");
  server.wait_for("/workers/total", 3);  // its replacement is there
  expect_equal("it goes on", pid_of(client), pid);
  client.half_close();
  client.read_until_eof();
  server.wait_for("/lifetime/recycled", 1);
  expect(!is_running(pid), "it has left");
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
  Client next(server.address());
  expect(pid_of(next) != pid, "another one serves");
}

// Replaced one by one: of ten at most one at a time.
// Asked for in `start` already, it is replaced after its first connection, and not before.
void asked_for_in_start() {
  Server server({PoolText{.serves = kDiary + " settings = { recycle_in_start = true; };",
                          .workers = "min = 2; max = 4; min_spare = 1;"}});
  server.wait_for("/workers/idle", 2);
  std::set<pid_t> served;
  for (int i = 0; i < 6; ++i) {
    Client client(server.address());
    served.insert(pid_of(client));
    client.half_close();
    client.read_until_eof();
  }
  expect_equal("each serves one", served.size(), size_t{6});
  server.wait_for("/lifetime/recycled", 6);
  server.wait_for("/workers/starting", 0);
  expect(server.pool()["lifetime"]["forked"] <= 6 + 4,
         "forked: " + server.pool()["lifetime"].dump());
}

void by_age() {
  constexpr size_t kWorkers = 10;
  Server server(
      {PoolText{.serves = kDiary, .workers = "min = 10; max = 12; min_spare = 1; max_age = 1.0;"}});
  server.wait_for("/workers/idle", kWorkers);
  const std::vector<pid_t> first = server.worker_pids();
  Client held(server.address());
  const pid_t holder = pid_of(held);
  server.wait_until("all but the busy one are replaced", kPatience, [&] {
    Json workers = server.pool()["workers"];
    expect(workers["idle"] >= kWorkers - 3, "enough of them: " + workers.dump());
    size_t left = 0;
    for (pid_t pid : first) left += is_running(pid);
    return left == 1;
  });
  expect_equal("who is busy finishes", pid_of(held), holder);
  held.close();
  server.wait_until("then it goes, too", kPatience, [&] { return !is_running(holder); });
  server.wait_until("each is counted", kPatience,
                    [&] { return server.pool()["lifetime"]["recycled"] >= kWorkers; });
  Json pool = server.pool();
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  expect_equal("failed", pool["connections"]["failed"], 0);
}

void by_memory() {
  Server server(
      {PoolText{.serves = kDiary, .workers = "min = 2; max = 4; min_spare = 1; max_rss = 200;"}});
  Client small(server.address()), big(server.address());
  const pid_t stays = pid_of(small), goes = pid_of(big);
  ask(big, "grow 300");
  expect_equal("it finishes", pid_of(big), goes);
  big.close();
  server.wait_for("/lifetime/recycled", 1);
  expect(!is_running(goes), "the big one has left");
  expect_equal("the small one stays", pid_of(small), stays);
}

// Who was measured while it served may have grown in what was left of that. (Measured is in the order of slots, and a worker that
// was found too big is a sign that those before it were.)
void by_memory_later() {
  Server server(
      {PoolText{.serves = kDiary, .workers = "min = 3; max = 5; min_spare = 1; max_rss = 200;"}});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(std::make_unique<Client>(server.address()));
  std::map<uint32_t, Client*> by_slot;
  for (const auto& client : clients) {
    const pid_t pid = pid_of(*client);
    for (const Json& worker : server.workers())
      if (worker["pid"] == pid) by_slot[worker["slot"].get<uint32_t>()] = client.get();
  }
  expect_equal("workers", by_slot.size(), 3u);
  Client &big = *by_slot.begin()->second, &sign = *by_slot.rbegin()->second;
  ask(sign, "grow 300");
  sign.close();
  server.wait_for("/lifetime/recycled", 1);
  ask(big, "grow 300");
  big.close();
  server.wait_for("/lifetime/recycled", 2);
}

// A limit that every worker is above at once would have each of them replaced after every connection.
void not_while_young() {
  Server server({PoolText{.serves = kDiary,
                          .workers = "min = 2; max = 4; min_spare = 1; max_rss = 1; "
                                     "connections = 10; max_age = 1.0; min_age = 600.0;"}});
  const std::vector<pid_t> first = server.worker_pids();
  Load load(server.address(), 4, [](Client& client) { pid_of(client); });
  Client held(server.address());  // somebody is busy all the time
  pid_of(held);
  server.wait_until("many are served", kPatience,
                    [&] { return server.pool()["connections"]["served"] >= 500; });
  load.stop();
  expect_equal("error", load.error(), "");
  expect_equal("recycled", server.pool()["lifetime"]["recycled"], 0);
  for (pid_t pid : first) expect(is_running(pid), "it is still there");
}

// --- bad handlers --------------------------------------------------------------------------------

void expect_logged(Server& server, const std::string& text) {
  server.wait_until("the log has: " + text, kPatience,
                    [&] { return server.log().find(text) != std::string::npos; });
}

// Whatever it does while it serves: its client's connection ends, it is counted, the log says what it was, and
// others are served.
void bad_serve() {
  Server server({PoolText{.serves = unruly(), .workers = "min = 2; max = 4; min_spare = 1;"}});
  server.forgive_reports();  // of a stack that was overrun
  const struct {
    char order;
    const char* said;  // "": nothing
    bool crashes;
  } kRows[] = {
      {'c', "killed by signal 6 (Aborted) while serving", true},
      {'x', "exited with status 3 while serving", true},
      {'e', "exited with status 0 while serving", true},
      {'o', are_sanitized() ? "exited with status" : "killed by signal 11 (Segmentation fault)",
       true},
      {'g', "", false}};
  int failed = 0, crashed = 0;
  for (const auto& row : kRows) {
    const std::string of = std::string(" of ") + row.order;
    Client client(server.address());
    client.send({&row.order, 1});
    expect(client.is_ended(), "the connection" + of);
    server.wait_for("/connections/failed", ++failed);
    server.wait_for("/lifetime/crashed", crashed += row.crashes);
    if (row.said[0]) expect_logged(server, row.said);
    Client next(server.address());
    expect(pid_serving(next) > 0, "another is served after one" + of);
  }
  server.wait_for("/state", "running");
}

// Its own connection is served; the worker then finds that it can accept no more, and says so.
void closed_descriptors() {
  Server server({PoolText{.serves = unruly(), .workers = "min = 2; max = 4; min_spare = 1;"}});
  Client client(server.address());
  client.send("d");
  expect(client.is_ended(), "its connection");
  server.wait_for("/lifetime/crashed", 1);
  expect_logged(server, "accept: Bad file descriptor");
  for (int i = 0; i < 8; ++i) {
    Client next(server.address());
    expect(pid_serving(next) > 0, "others are served");
  }
}

// The child has the connection, and its client waits for it; it is ended with the daemon at the latest.
void left_children() {
  Server server({PoolText{.serves = unruly(),
                          .workers = "min = 1; max = 4; min_spare = 1;",
                          .timeouts = "drain = 1.0;"}});
  Client client(server.address());
  const pid_t pid = pid_serving(client);
  client.send("k");
  server.wait_for("/connections/served", 1);
  const auto children = children_of(pid);
  expect_equal("children", children.size(), size_t{1});
  Client next(server.address());
  expect(pid_serving(next) > 0, "others are served");
  next.close();
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  Client last(server.address());
  expect(pid_serving(last) != pid, "by others");
  last.close();
  server.signal(SIGTERM);
  expect_equal("exit", server.wait_exit(), 0);
  for (pid_t child : children) expect(!is_running(child), "the child is gone");
}

void bad_preload() {
  const struct {
    const char *setting, *said;
  } kRows[] = {
      {"fail_preload = true;", "it returned 1"},
      {"thread_preload = true;",
       "it left 1 thread behind, which no worker would have: make them in start"},
      {"crash_preload = true;", "killed by signal 6"},
      {"exit_preload = true;", "exited with status 0"},
      {"close_preload = true;", "its preload closed descriptors of preforkd"},
  };
  PoolText text{.serves = unruly()};
  Server server({text});
  text.listen = "\"" + server.address() + "\"";
  for (const auto& row : kRows) {
    text.serves = unruly(row.setting);
    server.write_config(config_of({text}));
    Outcome reload = server.ctl({"reload"});
    expect_equal(row.setting, reload.code, 1);
    expect(reload.err.find(row.said) != std::string::npos, "says why: " + reload.err);
    Client client(server.address());
    expect(pid_serving(client) > 0, "the old ones serve");
  }
  server.wait_for("/state", "running");
}

// The supervisor's signals are its own again: workers that die are replaced, and it obeys.
void signals_in_preload() {
  Server server(
      {PoolText{.serves = unruly("signal_preload = true;"), .workers = "min = 2; max = 4;"}});
  for (pid_t worker : server.worker_pids()) kill(worker, SIGKILL);
  server.wait_for("/lifetime/crashed", 2);
  server.wait_for("/workers/idle", 2);
  Client client(server.address());
  expect(pid_serving(client) > 0, "it serves");
  expect_equal("set", server.ctl({"set", "echo", "min=3"}).code, 0);
  server.wait_for("/workers/total", 3);
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  client.close();
  server.wait_until("the old generation has ended", kPatience, [&] {
    return server.log().find("generation 1 has ended") != std::string::npos;
  });
}

void bad_start_and_stop() {
  TestFolder folder;
  const std::string crash = folder.write("crash", "");
  Server server({PoolText{.serves = unruly("crash_while = \"" + crash + "\";"),
                          .workers = "min = 2; max = 4; min_spare = 1;"},
                 PoolText{.name = "good"}},
                {.wait_until_ready = false});
  server.wait_for("/state", "degraded");
  expect_logged(server, "killed by signal 6 (Aborted) while starting");
  unlink(crash.c_str());
  server.wait_for("/state", "running");
  Client client(server.address());
  expect(pid_serving(client) > 0, "it serves");

  Server other({PoolText{.serves = unruly("crash_stop = true;"),
                         .workers = "min = 2; max = 4; min_spare = 1;"}});
  expect_equal("recycle", other.ctl({"recycle", "echo"}).code, 0);
  other.wait_for("/lifetime/crashed", 2);
  expect_logged(other, "killed by signal 6 (Aborted)");
  other.wait_for("/state", "running");
  Client next(other.address());
  expect(pid_serving(next) > 0, "the new ones serve");
}

}  // namespace

Suite handlers_suite() {
  return {"handlers",
          {{"notes", notes},
           {"addresses and log", addresses_and_log},
           {"told of forks", told_of_forks},
           {"the first version", the_first_version},
           {"slow", slow},
           {"extended", extended},
           {"asked for", asked_for},
           {"asked for in start", asked_for_in_start},
           {"by age", by_age},
           {"by memory", by_memory},
           {"by memory, grown after it was measured", by_memory_later},
           {"not while young", not_while_young},
           {"bad serve", bad_serve},
           {"closed descriptors", closed_descriptors},
           {"left children", left_children},
           {"bad preload", bad_preload},
           {"signals in preload", signals_in_preload},
           {"bad start and stop", bad_start_and_stop}}};
}

}  // namespace preforkd::system_test
