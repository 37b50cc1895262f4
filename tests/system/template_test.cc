// Programs that are started once and forked where they wait for their first client (`preload = true`;
// tests/system/programs/points.cc).
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

const std::string kProgram = "@HANDLERS@/../programs/points";
const std::string kThree = "min = 3; max = 6; min_spare = 0; max_spare = 3;";

// `steps` of the program, as words.
PoolText points(const std::string& steps = "", const std::string& workers = kThree,
                const std::string& timeouts = "") {
  std::string arguments;
  for (size_t from = 0; from < steps.size();) {
    const size_t to = std::min(steps.find(' ', from), steps.size());
    arguments += ", \"" + steps.substr(from, to - from) + "\"";
    from = to + 1;
  }
  return {.serves = "serve = [ \"" + kProgram + "\"" + arguments + " ]; preload = true;",
          .workers = workers,
          .timeouts = timeouts};
}

std::string ask(Client& client, const std::string& line) {
  client.send(line + "\n");
  return client.read_line();
}
pid_t pid_of(Client& client) { return static_cast<pid_t>(std::stol(ask(client, "pid"))); }

// 0: there is none that stands.
pid_t template_of(Server& server) {
  const Json t = server.pool()["template"];
  return t.is_null() || t["state"] != "standing" ? 0 : t["pid"].get<pid_t>();
}
pid_t wait_for_template(Server& server) {
  pid_t pid = 0;
  server.wait_until("a template stands", kPatience,
                    [&] { return (pid = template_of(server)) != 0; });
  return pid;
}

// One client of each worker that there is now.
std::vector<Client> clients(Server& server, size_t count) {
  std::vector<Client> all;
  for (size_t i = 0; i < count; ++i) all.emplace_back(server.address());
  return all;
}

void forked_and_not_started() {
  Server server({points("says started-now atfork")});
  std::set<pid_t> pids;
  auto all = clients(server, 3);
  for (Client& client : all) {
    const pid_t pid = pid_of(client);
    pids.insert(pid);
    expect_equal("whose child", ask(client, "parent"), std::to_string(server.supervisor()));
    expect_equal("its own group", ask(client, "group"), std::to_string(pid));
    expect_equal("glibc's idea of its thread", ask(client, "thread"), "own");
    expect_equal("handlers of fork in the child", ask(client, "atfork").substr(3), " 1");
    expect_equal("hidden", ask(client, "preload"), "none");
  }
  expect_equal("workers", pids.size(), 3u);
  expect_equal("started", occurrences(server.log(), "started-now"), 1u);
  const Json pool = server.pool();
  expect_equal("forked", pool["lifetime"]["forked"], 3);
  expect_equal("templates", pool["lifetime"]["templates"], 1);
  expect_equal("lost", pool["lifetime"]["templates_lost"], 0);
  expect_equal("state", pool["template"]["state"], "standing");
  expect(!pids.contains(template_of(server)), "it serves nobody");
}

void grows_and_shrinks() {
  Server server(
      {points("", "min = 1; max = 200; min_spare = 1; max_spare = 2; shrink_after = 0.3;")});
  auto all = clients(server, 150);
  std::set<std::string> pids;
  for (Client& client : all) pids.insert(ask(client, "pid"));
  expect_equal("one each", pids.size(), all.size());
  all.clear();
  server.wait_for("/connections/served", 150);
  server.wait_until("the pool is small again", kPatience,
                    [&] { return server.pool()["workers"]["total"] <= 4; });
  const Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  expect_equal("templates", pool["lifetime"]["templates"], 1);
}

// What the program had open is each worker's own.
void own_descriptors() {
  const TestFolder folder;
  const std::string lines = folder.write("lines", "one\ntwo\nthree\n");
  Server server({points("event pipe pair epoll file " + lines)});
  auto all = clients(server, 3);
  std::string descriptors;
  for (Client& client : all) {
    expect_equal("the file is read from where it was", ask(client, "line"), "two");
    expect_equal("what it has put there itself, and nobody else", ask(client, "full"), "3 1 1 1");
    const std::string now = ask(client, "descriptors");
    if (descriptors.empty()) descriptors = now;
    expect_equal("as many as the others", now, descriptors);
  }
}

void its_timers() {
  for (const char* kind : {"alarm", "timer"}) {
    Server server({points(kind, "min = 2; max = 2; min_spare = 0; max_spare = 0;")});
    auto all = clients(server, 2);
    for (Client& client : all)
      expect_equal("fires once its client is there", ask(client, "alarm"), "1");
    expect_equal("templates", server.pool()["lifetime"]["templates"], 1);
  }
}

void hooks() {
  Server server({points("hook")});
  auto all = clients(server, 3);
  for (Client& client : all) expect_equal("called once", ask(client, "hook"), "1");
}

void a_hook_that_fails() {
  Server server({points("hook fails"), PoolText{.name = "good"}}, {.wait_until_ready = false});
  server.wait_for_log("exited with status 4 while starting");
  server.wait_until("the breaker has tripped", kPatience,
                    [&] { return server.pool()["state"] == "degraded"; });
}

// Each by name, with its reason, and what to do where that is known.
void cannot_be_preloaded() {
  constexpr struct {
    const char *step, *reason;
  } kCases[] = {
      {"thread", "2 threads"},
      {"child", "it has a child (points)"},
      {"connection", "is a connection to 127.0.0.1:"},
      {"udp", "is a datagram socket"},
      {"tcp", "is a socket that does not listen"},
      {"netlink", "is a netlink socket"},
      {"inotify", "is of kind inotify"},
      {"timerfd", "is of kind timerfd"},
      {"open", "the end of somebody else's pipe"},
  };
  Server server({points()});
  Client client(server.address());
  const std::string pid = ask(client, "pid");
  for (const auto& [step, reason] : kCases) {
    server.write_config(config_of({points(step)}));
    const Outcome refused = server.ctl({"reload"});
    expect_equal(std::string("reload: ") + step, refused.code, 1);
    expect_contains(step, refused.err, "points cannot be preloaded: ");
    expect_contains(step, refused.err, reason);
  }
  expect_equal("the one before serves on", ask(client, "pid"), pid);
  server.write_config(config_of({points("joined listens syslog")}));
  expect_equal("what does no harm", server.ctl({"reload"}).code, 0);
}

void cannot_at_the_start() {
  Server server({points("thread"), PoolText{.name = "good"}}, {.wait_until_ready = false});
  server.wait_until("it is degraded", kPatience,
                    [&] { return server.pool()["state"] == "degraded"; });
  expect_contains("why", server.pool()["reason"].get<std::string>(),
                  "points cannot be preloaded: 2 threads");
  server.wait_for("/state", "running", "good");
  expect(server.pool()["lifetime"]["templates_lost"] >= 1, "counted");
}

void never_comes_to_its_point() {
  Server server({points("orphan never", kThree, "start = 0.3;"), PoolText{.name = "good"}},
                {.wait_until_ready = false});
  server.wait_for_log(
      "template points did not come to its first preforkd_accept() in 300 ms (timeouts.start): "
      "killed");
  server.wait_until("it is degraded", kPatience,
                    [&] { return server.pool()["state"] == "degraded"; });
}

void dies_before_it() {
  Server server({points("floods dies"), PoolText{.name = "good"}}, {.wait_until_ready = false});
  server.wait_for_log("template points exited with status 3");
  server.wait_until("it is degraded", kPatience,
                    [&] { return server.pool()["state"] == "degraded"; });
}

void without_its_descriptors() {
  Server server({points("shuts"), PoolText{.name = "good"}}, {.wait_until_ready = false});
  server.wait_for_log("template points exited with status 1");
}

void killed() {
  Server server({points()});
  auto all = clients(server, 3);
  std::vector<std::string> pids;
  for (Client& client : all) pids.push_back(ask(client, "pid"));
  for (int lost = 1; lost <= 3; ++lost) {
    const pid_t before = wait_for_template(server);
    kill(before, SIGKILL);
    server.wait_for("/lifetime/templates_lost", lost);
    wait_for_template(server);
    expect(template_of(server) != before, "another one");
  }
  for (size_t i = 0; i < all.size(); ++i) expect_equal("workers stay", ask(all[i], "pid"), pids[i]);
  server.wait_for_log("template points was killed by signal 9 (Killed)");
  Client next(server.address());
  expect(!ask(next, "pid").empty(), "of the new one");
  expect_equal("state", server.pool()["state"], "running");
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

// Its last child is made, or not; who is made is counted, and nobody is lost.
void killed_while_it_clones() {
  Server server(
      {points("", "min = 1; max = 60; min_spare = 0; max_spare = 0; shrink_after = 0.2;")});
  for (int round = 0; round < 15; ++round) {
    const pid_t victim = wait_for_template(server);
    auto all = clients(server, 40);
    usleep(static_cast<useconds_t>(100 * round));
    kill(victim, SIGKILL);
    std::set<std::string> pids;
    for (Client& client : all) pids.insert(ask(client, "pid"));
    expect_equal("each has its worker", pids.size(), all.size());
  }
  server.wait_for("/connections/served", 600);
  const Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  server.wait_until("as many as are counted", kPatience, [&] {
    const auto children = children_of(server.supervisor());
    const auto running = std::count_if(children.begin(), children.end(), [](pid_t pid) {
      return title_of(pid).find("programs/points") != std::string::npos;
    });
    return server.pool()["workers"]["total"] == running - 1;  // the template
  });
}

void stopped() {
  Server server({points("", "min = 1; max = 4; min_spare = 0; max_spare = 1;")});
  const pid_t victim = wait_for_template(server);
  kill(victim, SIGSTOP);
  auto all = clients(server, 3);
  expect(!ask(all[0], "pid").empty(), "who is there serves");
  server.wait_for_log("template points has been stopped for 5 s: killed");
  for (size_t i = 1; i < all.size(); ++i) expect(!ask(all[i], "pid").empty(), "of the next one");
}

void reload() {
  Server server({points()});
  Client old(server.address());
  const std::string before = ask(old, "pid");
  const pid_t first = template_of(server);
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  Client fresh(server.address());
  expect(ask(fresh, "pid") != before, "of the new template");
  expect_equal("the old one finishes", ask(old, "pid"), before);
  server.wait_until("the old template is gone", kPatience, [&] { return kill(first, 0) < 0; });
  old.close();
  server.wait_for_one_generation();
}

void its_supervisor_dies() {
  Server server({points()});
  Client client(server.address());
  const std::string worker = ask(client, "pid");
  const pid_t first = template_of(server);
  kill(server.supervisor(), SIGKILL);
  server.wait_until("the template is gone", kPatience, [&] { return kill(first, 0) < 0; });
  wait_for_template(server);
  expect_equal("who serves goes on", ask(client, "pid"), worker);
  Client next(server.address());
  expect(ask(next, "pid") != worker, "another generation's");
}

// What it has started goes with it.
void leaves_children() {
  Server server({points("orphan", "min = 0; max = 2; min_spare = 0; max_spare = 1;")});
  const pid_t first = wait_for_template(server);
  std::vector<pid_t> orphans = children_of(server.supervisor());
  std::erase(orphans, first);
  expect_equal("orphans", orphans.size(), 1u);
  kill(first, SIGKILL);
  server.wait_until("it is gone, too", kPatience, [&] { return !is_running(orphans[0]); });
  wait_for_template(server);
  Client client(server.address());
  expect(!ask(client, "pid").empty(), "it serves");
}

// Those that are made just then are told, too.
void told_to_go_while_it_grows() {
  for (const char* order : {"recycle", "stop"}) {
    Server server({points("", "min = 60; max = 60; min_spare = 0;")}, {.wait_until_ready = false});
    server.wait_until("it grows", kPatience, [&] {
      return server.status()["pools"].size() == 1 && server.pool()["lifetime"]["templates"] == 1 &&
             server.pool()["workers"]["total"] > 0;
    });
    if (order == std::string("stop")) {
      server.signal(SIGTERM);
      expect_equal("stopped", server.wait_exit(5), 0);
      continue;
    }
    server.wait_until_ready();
    expect_equal("recycled", server.ctl({"recycle", "echo"}).code, 0);
    server.wait_for_one_generation();
    expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
    expect_equal("timed out", server.pool()["lifetime"]["timed_out"], 0);
  }
}

// Its workers die in their start, or it does with each of them: that is said.
void fails_at_work() {
  Server server({points("breaks"), PoolText{.name = "good"}}, {.wait_until_ready = false});
  server.wait_until("it is degraded", kPatience,
                    [&] { return server.pool()["state"] == "degraded"; });
  expect_contains("why", server.pool()["reason"].get<std::string>(),
                  "template points exited with status 9");
}

// As in a kernel without CONFIG_CHECKPOINT_RESTORE and without kcmp(2).
void on_lesser_kernels() {
  const TestFolder folder;
  const std::string lines = folder.write("lines", "one\ntwo\nthree\n");
  Server server({points("event pipe pair epoll file " + lines + " without " +
                        std::to_string(SYS_prctl) + " without " + std::to_string(SYS_kcmp))},
                {.wait_until_ready = false});
  server.wait_until_ready();
  auto all = clients(server, 3);
  for (Client& client : all) {
    expect_equal("glibc's idea of its thread", ask(client, "thread"), "own");
    expect_equal("the file", ask(client, "line"), "two");
    expect_equal("what was put there", ask(client, "full"), "3 1 1 1");
  }
}

void processes_are_refused() {
  Server server({points("without " + std::to_string(SYS_clone)), PoolText{.name = "good"}},
                {.wait_until_ready = false});
  server.wait_for_log("fork: Operation not permitted: going on with 0 workers, trying again");
  server.wait_until("it is degraded", kPatience,
                    [&] { return server.pool()["state"] == "degraded"; });
  expect_equal("forked", server.pool()["lifetime"]["forked"], 0);
}

void by_way_of_another_program() {
  PoolText pool = points();
  for (const char* shell : {"sh", "bash"}) {
    pool.serves = "serve = [ \"" + std::string(shell) + "\", \"-c\", \"exec env X=1 " + kProgram +
                  " hook\" ]; preload = true;";
    Server server({pool});
    auto all = clients(server, 3);
    for (Client& client : all) {
      expect_equal("it was preloaded there, too", ask(client, "hook"), "1");
      expect_equal("hidden", ask(client, "preload"), "none");
    }
  }
}

// Whatever it does: its pool has never more than `max` workers, and says what is wrong; the other pool notices nothing; and
// as soon as the program is good, the pool is.
void hostile() {
  constexpr struct {
    const char *how, *said;
  } kCases[] = {
      {"garbage", "template misleads has said what is no report: killed"},
      {"early", "template misleads has said what nobody asked: killed"},
      {"nothing", "template misleads has made fewer workers than it says: killed"},
      {"crowd", "template misleads has made fewer workers than it says: killed"},
      {"strangers", "template misleads has made fewer workers than it says: killed"},
      {"scribble", "template misleads has made fewer workers than it says: killed"},
      {"silent", "template misleads has made no worker in 500 ms (timeouts.start): killed"},
      {"leaves", "template misleads takes no order: killed"},
  };
  for (const auto& [how, said] : kCases) {
    PoolText pool = points("", "min = 2; max = 4; min_spare = 1; max_spare = 2;", "start = 0.5;");
    pool.serves = "serve = [ \"@HANDLERS@/../programs/misleads\", \"" + std::string(how) +
                  "\" ]; preload = true;";
    Server server({pool, PoolText{.name = "good"}}, {.wait_until_ready = false});
    server.wait_for_log(said);
    server.wait_until(std::string(how) + ": it is degraded", kPatience, [&] {
      return server.status()["pools"].size() == 2 && server.pool()["state"] == "degraded";
    });
    expect(server.pool()["workers"]["total"] <= 4, std::string(how) + ": not more than max");
    server.wait_for("/state", "running", "good");
    server.write_config(config_of({points(), PoolText{.name = "good"}}));
    const Outcome reloaded = server.ctl({"reload"});
    expect_equal(std::string(how) + ": a good program: " + reloaded.err, reloaded.code, 0);
    Client client(server.address());
    expect(!ask(client, "pid").empty(), std::string(how) + ": is served by");
  }
}

void wrongly_configured() {
  const TestFolder folder;
  auto check = [&](const PoolText& pool) {
    const std::string file = folder.write("c", folder.expand(config_of({pool})));
    return run({built("preforkd"), "-t", "-c", file}, kPatience);
  };
  PoolText handler;
  handler.more = "preload = true;";
  expect_equal("with a handler", check(handler).code, 78);
  expect_contains("why", check(handler).err,
                  "preload: is for a pool with serve; a handler has its own preload");
  expect_equal("and nothing else", occurrences(check(handler).err, "\n"), 1u);
}

// `preforkd -t` starts it, and makes two workers.
void tried_out() {
  const TestFolder folder;
  auto check = [&](const std::string& steps, const std::string& timeouts = "") {
    const std::string file =
        folder.write("c", folder.expand(config_of({points(steps, "min = 2; max = 3;", timeouts)})));
    return run({built("preforkd"), "-t", "-c", file}, kPatience);
  };
  const std::string lines = folder.write("lines", "one\ntwo\n");
  const Outcome good = check("hook event pipe pair epoll syslog file " + lines);
  expect_equal("good: " + good.err, good.code, 0);
  const Outcome threads = check("thread");
  expect_equal("threads", threads.code, 78);
  expect_contains("threads", threads.err, "serve: points cannot be preloaded: 2 threads");
  expect_contains("dies", check("dies").err, "template points exited with status 3");
  expect_contains("a hook", check("fails").err, "exited with status 4 while starting");
  expect_contains("late", check("never", "start = 0.3;").err, "in 300 ms (timeouts.start)");
}

}  // namespace

Suite template_suite() {
  // (AddressSanitizer's own library must come first.)
  if (are_sanitized())
    return {"template", {{"all", [] { skip("a library with sanitizers cannot be preloaded"); }}}};
  return {"template",
          {{"forked, and not started", forked_and_not_started},
           {"grows and shrinks", grows_and_shrinks},
           {"own descriptors", own_descriptors},
           {"its timers", its_timers},
           {"hooks", hooks},
           {"a hook that fails", a_hook_that_fails},
           {"cannot be preloaded", cannot_be_preloaded},
           {"cannot at the start", cannot_at_the_start},
           {"never comes to its point", never_comes_to_its_point},
           {"dies before it", dies_before_it},
           {"without its descriptors", without_its_descriptors},
           {"killed", killed},
           {"killed while it clones", killed_while_it_clones},
           {"stopped", stopped},
           {"reload", reload},
           {"its supervisor dies", its_supervisor_dies},
           {"leaves children", leaves_children},
           {"told to go while it grows", told_to_go_while_it_grows},
           {"fails at work", fails_at_work},
           {"on lesser kernels", on_lesser_kernels},
           {"processes are refused", processes_are_refused},
           {"by way of another program", by_way_of_another_program},
           {"hostile", hostile},
           {"wrongly configured", wrongly_configured},
           {"tried out", tried_out}}};
}

}  // namespace preforkd::system_test
