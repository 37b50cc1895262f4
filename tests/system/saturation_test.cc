// `saturation`: who is turned away with a message while all workers are busy, and who waits.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "tests/system/conditions.h"
#include "tests/system/diary.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

std::vector<pid_t> shedders(Server& server) {
  std::vector<pid_t> found;
  for (pid_t pid : server.all_pids())
    if (title_of(pid) == "preforkd: shedder echo") found.push_back(pid);
  return found;
}

const std::string kTwoWorkers = "min = 2; max = 2; min_spare = 0; max_spare = 0;";

// It is idle by its bit, until it is killed for it.
void saturated_but_for_a_stopped_one() {
  Server server(
      {PoolText{.workers = kTwoWorkers,
                .more = "saturation = { queue = 0; message = \"come back later\\n\"; };"}});
  const pid_t stopped = server.worker_pids().front();
  kill(stopped, SIGSTOP);
  server.wait_for_log("stopped by Stopped");
  Client busy(server.address());
  expect(busy.echoes("hello\n"), "the other one serves");
  Client next(server.address());
  expect_equal("who comes now", next.read_until_eof(), "come back later\n");
  kill(stopped, SIGCONT);
  busy.half_close();
  server.wait_for("/workers/idle", 2);
  expect(Client(server.address()).echoes("hello\n"), "both serve again");
}

void saturated() {
  Server server(
      {PoolText{.serves = kDiary,
                .workers = kTwoWorkers,
                .more = "saturation = { queue = 1; message = \"come back later\\n\"; };"}});
  const auto hold_both = [&] {
    std::vector<Client> held;
    for (int i = 0; i < 2; ++i) ask(held.emplace_back(server.address()), "pid");
    server.wait_for("/workers/busy", 2);
    return held;
  };
  expect_equal("while there is room nobody sheds", shedders(server).size(), size_t{0});
  std::vector<Client> held = hold_both();
  Client first(server.address());
  first.send("local\n");
  server.wait_for("/backlog/queued", 1);
  expect(!first.has_answer(), "one may wait");
  Client second(server.address());
  expect_equal("the one that waited longest", first.read_until_eof(), "come back later\n");
  expect_rejected(server, "saturated", 1);
  server.wait_for_log("more than 1 connections wait (saturation)");
  expect(!second.has_answer(), "the other waits on");
  // A burst: all but one are answered.
  std::vector<Client> burst;
  for (int i = 0; i < 20; ++i) burst.emplace_back(server.address());
  expect_rejected(server, "saturated", 21);
  server.wait_for("/backlog/queued", 1);
  // Whoever is left is served as soon as somebody is free, and nobody is turned away then.
  held.pop_back();
  expect_equal("the last one", ask(burst.back(), "local"), server.address());
  burst.clear();
  server.wait_for("/workers/busy", 1);
  for (int i = 0; i < 30; ++i) ask(*std::make_unique<Client>(server.address()), "pid");
  expect_equal("no more", server.pool()["connections"]["rejected"], 21);

  // Killed, it is made again when it is wanted; there is one at most.
  held.clear();
  server.wait_for("/workers/busy", 0);
  expect_equal("shedders", shedders(server).size(), size_t{1});
  kill(shedders(server).at(0), SIGKILL);
  server.wait_until("it is gone", kPatience, [&] { return shedders(server).empty(); });
  int rejected = 21;
  server.wait_until("another one sheds", kPatience, [&] {
    held.clear();
    server.wait_for("/workers/busy", 0);
    held = hold_both();
    return !shedders(server).empty();
  });
  Client third(server.address()), fourth(server.address());
  expect_equal("again", third.read_until_eof(), "come back later\n");
  expect_rejected(server, "saturated", rejected + 1);
  expect_equal("shedders", shedders(server).size(), size_t{1});
  fourth.close();
  held.clear();
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  server.wait_until("it ended with its generation", kPatience,
                    [&] { return shedders(server).empty(); });
  expect_equal("counters stay", server.pool()["connections"]["rejected_by"]["saturated"],
               rejected + 1);
  expect_well(server);
}

// While workers start there is nobody to be busy: who comes waits for them.
void not_shed_while_starting() {
  Server server(
      {PoolText{.serves = unruly("start_ms = 1500;"),
                .workers = kTwoWorkers,
                .more = "saturation = { queue = 0; message = \"come back later\\n\"; };"}},
      {.wait_until_ready = false});
  server.wait_until("two are starting", kPatience,
                    [&] { return server.pool()["workers"]["starting"] == 2; });
  Client first(server.address());
  expect_equal("shedders", shedders(server).size(), size_t{0});
  expect(pid_serving(first) > 0, "it is served");
  first.close();  // (from here on both may be busy for a moment)
  Client second(server.address());
  expect(pid_serving(second) > 0, "the next one, too");
  expect_equal("rejected", server.pool()["connections"]["rejected"], 0);
}

// In a network of its own, of which the kernel lets fewer wait than the pool would.
void live_in_a_narrow_network() {
  if (unshare(CLONE_NEWNET) < 0) _exit(126);
  const UniqueFd limit(open("/proc/sys/net/core/somaxconn", O_WRONLY));
  if (write(limit.get(), "2\n", 2) != 2 || std::system("ip link set lo up") != 0) _exit(126);
}

// What is made meanwhile lives there, and stays there.
template <class Make>
auto in_network_of(pid_t pid, Make make) {
  const UniqueFd ours(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  const UniqueFd theirs(
      open(("/proc/" + std::to_string(pid) + "/ns/net").c_str(), O_RDONLY | O_CLOEXEC));
  expect_equal("enter its network", setns(theirs.get(), CLONE_NEWNET), 0);
  auto made = make();
  expect_equal("return from it", setns(ours.get(), CLONE_NEWNET), 0);
  return made;
}

// net.core.somaxconn is below saturation.queue, which would never be exceeded: it is said, and whoever comes when
// no more may wait is turned away.
void shed_by_the_kernels_limit() {
  if (!is_root()) return skip("only root can make a network");
  PoolText pool{.listen = "\"127.0.0.1:0\", \"unix:@DIR@/sock\"",
                .serves = kDiary,
                .workers = kTwoWorkers,
                .more = "saturation = { queue = 5; message = \"come back later\\n\"; };"};
  PoolText deep{.name = "deep", .workers = "min = 1; max = 2;", .more = "backlog = 3;"};
  Server server({pool, deep}, {.in_child = live_in_a_narrow_network});
  const std::string tcp = server.address("echo", 0), path = server.address("echo", 1);
  for (const std::string& address : {tcp, path})
    server.wait_for_log(
        "warning: pool echo: saturation.queue is 5, but only 2 connections may "
        "wait at " +
        address + " (net.core.somaxconn): more are turned away");
  server.wait_for_log("warning: pool deep: backlog is 3, but only 2 connections may wait at " +
                      server.address("deep") + " (net.core.somaxconn)");
  int rejected = 0;
  for (const std::string& address : {tcp, path}) {
    auto connect = [&] { return in_network_of(server.pid(), [&] { return Client(address); }); };
    std::vector<Client> held, waiting;
    for (int i = 0; i < 2; ++i) ask(held.emplace_back(connect()), "pid");
    server.wait_for("/workers/busy", 2);
    for (int i = 0; i < 2; ++i) waiting.push_back(connect());
    server.wait_for("/backlog/queued", 2);
    expect(!waiting[0].has_answer(), "as many may wait");
    for (int i = 0; i < 4; ++i) waiting.push_back(connect());
    for (int i = 0; i < 4; ++i)
      expect_equal("who waited longest", waiting[i].read_until_eof(), "come back later\n");
    rejected += 4;
    expect_rejected(server, "saturated", rejected);
    expect(!waiting[4].has_answer() && !waiting[5].has_answer(), "the others wait on");
    held.clear();
    for (int i = 4; i < 6; ++i) expect(!ask(waiting[i], "pid").empty(), "and are served");
    waiting.clear();
    server.wait_for("/workers/busy", 0);
  }
  expect_contains("the log", server.log(), "more than 2 connections wait (saturation)");
  // A reload says it again, as long as it is so.
  const size_t before = occurrences(server.log(), "saturation.queue is 5, but only 2");
  pool.more = "saturation = { queue = 2; message = \"come back later\\n\"; };";
  server.write_config(server.folder().expand(config_of({pool, deep})));
  expect_equal("reload", server.request("POST", "/v1/reload").status, 200);
  expect_equal("not now", occurrences(server.log(), "saturation.queue is"), before);
}

// Who would not be let in gets no answer from the shedder either.
void shed_without_a_word() {
  Server server(
      {PoolText{.serves = kDiary,
                .workers = kTwoWorkers,
                .more = "access = { deny = [ \"127.0.0.9\" ]; }; "
                        "saturation = { queue = 0; message = \"come back later\\n\"; };"}});
  std::vector<Client> held;
  for (int i = 0; i < 2; ++i) ask(held.emplace_back(server.address()), "pid");
  expect_equal("one that is denied", from("127.0.0.9", server.address()).read_until_eof(), "");
  expect_equal("another", Client(server.address()).read_until_eof(), "come back later\n");
  expect_rejected(server, "denied", 1);
  expect_rejected(server, "saturated", 1);
}

// Without a message who waits, waits.
void not_shed() {
  Server server({PoolText{.serves = kDiary, .workers = kTwoWorkers}});
  std::vector<Client> clients;
  for (int i = 0; i < 6; ++i) clients.emplace_back(server.address()).send("pid\n");
  server.wait_for("/backlog/queued", 4);
  expect_equal("shedders", shedders(server).size(), size_t{0});
  for (size_t i = 0; i < clients.size(); ++i) {
    expect(!clients[i].read_line().empty(), "each is served in turn");
    clients[i].close();
  }
  expect_equal("rejected", server.pool()["connections"]["rejected"], 0);
}

}  // namespace

Suite saturation_suite() {
  return {"saturation",
          {{"saturated", saturated},
           {"saturated but for a stopped one", saturated_but_for_a_stopped_one},
           {"not shed while starting", not_shed_while_starting},
           {"shed without a word", shed_without_a_word},
           {"shed by the kernel's limit", shed_by_the_kernels_limit},
           {"not shed", not_shed}}};
}

}  // namespace preforkd::system_test
