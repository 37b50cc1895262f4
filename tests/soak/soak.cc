// The soak: everything that can happen to one preforkd, again and again, under a steady load, and what its
// clients lost by it. Each test prints a line of a table, and appends it to the file $SOAK_TABLE, if that is
// set. SOAK_SHARE=0.2 does a fifth of it.
#include <CUnit/CUnit.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <sstream>

#include "base/clock.h"
#include "tests/soak/crowd.h"
#include "tests/soak/figures_watch.h"
#include "tests/soak/pool_watch.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/installation.h"
#include "tests/system/machine.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr Crowd::Shape kLoad{.threads = 12, .per_second = 6000, .long_ones = 50};
constexpr int kMin = 12, kMax = 96;
constexpr double kLongAnswer = 60;  // seconds, for what takes its time under load

int times(int all) {
  static const double share = [] {
    const char* text = std::getenv("SOAK_SHARE");
    return text ? std::clamp(std::atof(text), 0.01, 10.0) : 1.0;
  }();
  return std::max(1, static_cast<int>(std::lround(all * share)));
}

// --- what it is done to --------------------------------------------------------------------------

// `settings` go to the handler: another text makes another generation.
PoolText pool_text(const std::string& settings = "", const std::string& timeouts = "") {
  return {.listen = "\"127.0.0.1:0\"",
          .serves = unruly(settings),
          .workers = "min = " + std::to_string(kMin) + "; max = " + std::to_string(kMax) +
                     "; min_spare = 4; shrink_after = 0.5;",
          .timeouts = "drain = 60.0; " + timeouts};
}

// What a server holds, to be the same before and after.
struct Holdings {
  std::map<std::string, size_t> processes, descriptors;  // by title, of all of it
  std::map<std::string, uint64_t> private_kb;            // of the daemon and the supervisor
};

uint64_t private_kb(pid_t pid) {
  std::istringstream text(file_text("/proc/" + std::to_string(pid) + "/smaps_rollup"));
  uint64_t sum = 0, kb;
  for (std::string word; text >> word;)
    if (word == "Private_Dirty:" && text >> kb) sum += kb;  // what it wrote, not what it runs
  return sum;
}

Holdings holdings_of(Server& server) {
  Holdings all;
  for (pid_t pid : server.all_pids()) {
    const std::string title = pid == server.pid() ? "preforkd" : title_of(pid);
    ++all.processes[title];
    const std::filesystem::directory_iterator open("/proc/" + std::to_string(pid) + "/fd");
    all.descriptors[title] =
        std::max<size_t>(all.descriptors[title], std::distance(begin(open), end(open)));
    if (pid == server.pid() || title.starts_with("preforkd: supervisor"))
      all.private_kb[title] = private_kb(pid);
  }
  return all;
}

// One server through all of it. Made by the first test that asks, ended by the last.
struct World {
  Installation installed;
  Server server{config_of({pool_text()}), {.program = installed.preforkd()}};
  const std::string address = server.address();
  std::map<std::string, size_t> descriptors_at_start;
  Holdings before;

  World() {
    descriptors_at_start = holdings_of(server).descriptors;
    reload(pool_text("warm = 1;"));  // what a first reload leaves in the daemon's memory is no leak
    reload(pool_text());
    settle();
    before = holdings_of(server);
  }
  // At its minimum, alone, with nothing in hand.
  void settle() {
    server.wait_for("/connections/active", 0, "echo", kLongAnswer);
    server.wait_until("the pool is at its minimum, and alone", kLongAnswer, [&] {
      const size_t daemon_control_log_and_supervisor = 4;
      return server.pool()["workers"]["idle"] == kMin &&
             server.all_pids().size() == daemon_control_log_and_supervisor + kMin;
    });
  }
  void reload(const PoolText& pool) {
    server.write_config(config_of({pool}));
    const Answer answer = server.request("POST", "/v1/reload");
    if (answer.status != 200) throw Failure("reload: " + answer.body);
  }
};

std::unique_ptr<World>& the_world() {
  static std::unique_ptr<World> world;
  return world;
}
World& world() {
  if (!the_world()) the_world() = std::make_unique<World>();
  return *the_world();
}

// --- under the load ------------------------------------------------------------------------------

std::string text_of(const std::vector<Lost>& all) {
  std::ostringstream text;
  text << all.size();
  for (size_t i = 0; i < all.size() && i < 10; ++i)
    text << (i ? ", " : ": ") << (all[i].was_long ? "long, " : "") << name_of(all[i].how) << " by "
         << all[i].server << " (port " << all[i].own_port << ")";
  return text.str();
}

std::string printed(const char* format, auto... values) {
  char text[160];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string load_of(const Crowd& crowd) {
  const double seconds = crowd.seconds();
  return printed("%.0f/s for %.0f s; %lu long", static_cast<double>(crowd.short_served()) / seconds,
                 seconds, crowd.long_served());
}

void add_line(const std::string& what, const std::string& load, const std::string& lost,
              const std::string& beside, bool of_all = false) {
  const std::string only =
      of_all ? "" : std::string(" ONLY=\"") + CU_get_current_test()->pName + "\"";
  const std::string line =
      "| " + what + " | " + load + " | " + lost + " | " + beside + " | `make soak" + only + "` |\n";
  std::printf("\n%s", line.c_str());
  if (const char* path = std::getenv("SOAK_TABLE")) std::ofstream(path, std::ios::app) << line;
}

void wait_for_more(World& w, const Crowd& crowd, uint64_t connections) {
  const uint64_t served = crowd.served();
  w.server.wait_until("more clients are served", kPatience,
                      [&] { return crowd.served() >= served + connections; });
}

struct Outcomes {
  std::string load;
  uint64_t served = 0;
  std::vector<Lost> lost;                          // as the clients saw it
  uint64_t accepted = 0, failed = 0, aborted = 0;  // as the pool counts
};

// Does `work` while clients come, and waits until all is quiet again.
Outcomes under_load(const std::function<void(World&, Crowd&)>& work) {
  World& w = world();
  const Json before = w.server.pool()["connections"];
  Crowd crowd(w.address, kLoad);
  wait_for_more(w, crowd, 1000);
  work(w, crowd);
  crowd.stop();
  w.settle();
  const Json after = w.server.pool()["connections"];
  auto more = [&](const char* name) {
    return after[name].get<uint64_t>() - before[name].get<uint64_t>();
  };
  return {load_of(crowd),   crowd.served(), crowd.lost(),
          more("accepted"), more("failed"), more("aborted")};
}

void nobody_loses(const std::string& what, const std::function<void(World&, Crowd&)>& work,
                  const std::string& beside = "") {
  const Outcomes outcomes = under_load(work);
  expect_equal("lost", text_of(outcomes.lost), "0");
  expect_equal("failed", outcomes.failed, 0u);
  expect_equal("aborted", outcomes.aborted, 0u);
  expect_equal("accepted", outcomes.accepted, outcomes.served);
  add_line(what, outcomes.load, std::to_string(outcomes.lost.size()), beside);
}

// --- the lines of the table ------------------------------------------------------------------------

void reloads() {
  const int count = times(100);
  nobody_loses(printed("%d reloads with a new generation each", count), [&](World& w, Crowd&) {
    const int before = w.server.pool()["generation"];
    for (int i = 0; i < count; ++i) w.reload(pool_text(printed("number = %d;", i)));
    expect_equal("generations", w.server.pool()["generation"].get<int>() - before, count);
  });
}

// A configuration, and what the answer must name.
struct Failing {
  std::string config, reason;
};

std::vector<Failing> failing_configurations(const TestFolder& folder, const TakenPort& taken) {
  auto with = [](std::string PoolText::*part, const std::string& text,
                 const std::string& timeouts = "") {
    PoolText pool = pool_text("", timeouts);
    pool.*part = text;
    return config_of({pool});
  };
  const std::string good = config_of({pool_text()}), crash = folder.write("crash", "");
  return {
      {"pools = (", "syntax error"},
      {good + "colour = \"red\";\n", "colour"},
      {with(&PoolText::workers, "min = \"many\";"), "min"},
      {with(&PoolText::workers, "min = 9; max = 3;"), "max"},
      {config_of({pool_text(), pool_text()}), "echo"},
      {with(&PoolText::more, "user = \"no-such-user\";"), "no-such-user"},
      {with(&PoolText::listen, taken.quoted()), "Address already in use"},
      {with(&PoolText::listen, "\"192.0.2.1:7007\""), "Cannot assign requested address"},
      {with(&PoolText::listen, "\"unix:/no/such/folder/socket\""), "/no/such/folder"},
      {with(&PoolText::serves, "handler = \"no-such\";"), "no-such"},
      {with(&PoolText::serves, "handler = \"" + folder.write("text.so", "no handler\n") + "\";"),
       "text.so"},
      {with(&PoolText::serves, "handler = \"@HANDLERS@/abi_next.so\";"), "abi_next"},
      {with(&PoolText::serves, "program = [ \"/no/such/program\" ];"), "/no/such/program"},
      {with(&PoolText::serves, unruly("fail_preload = true;")), "preload"},
      {with(&PoolText::serves, unruly("crash_preload = true;")), "killed by signal 6"},
      {with(&PoolText::serves, unruly("crash_while = \"" + crash + "\";")), "killed by signal 6"},
      {with(&PoolText::serves, unruly("start_ms = 60000;"), "start = 0.2;"), "timeouts.start"},
      {with(&PoolText::serves, unruly("die_after_ms = 100;")), "killed by signal 14"},
  };
}

std::set<pid_t> supervisors(Server& server) {
  std::set<pid_t> all;
  for (pid_t pid : children_of(server.pid()))
    if (title_of(pid).starts_with("preforkd: supervisor")) all.insert(pid);
  return all;
}

// The newcomer's supervisor is killed while it is tried out.
Answer reload_with_a_murder(Server& server) {
  const std::set<pid_t> before = supervisors(server);
  server.write_config(config_of({pool_text("start_ms = 60000;")}));
  Answer answer;
  std::jthread asking([&] { answer = server.request("POST", "/v1/reload"); });
  pid_t newcomer = 0;
  server.wait_until("it is on trial", kPatience, [&] {
    for (pid_t pid : supervisors(server))
      if (!before.contains(pid)) newcomer = pid;
    return newcomer != 0;
  });
  kill(newcomer, SIGKILL);
  asking.join();
  return answer;
}

void reloads_that_fail() {
  const int count = times(20);
  TestFolder folder;
  const TakenPort taken;
  const std::vector<Failing> failing = failing_configurations(folder, taken);
  auto all_of_them = [&](World& w, Crowd&) {
    const Json generation = w.server.pool()["generation"];
    for (int i = 0; i < count; ++i) {
      for (const Failing& row : failing) {
        w.server.write_config(row.config);
        const Answer answer = w.server.request("POST", "/v1/reload");
        expect_equal("status for " + row.reason, answer.status, 409);
        expect_contains("the reason", answer.body, row.reason);
      }
      const Answer answer = reload_with_a_murder(w.server);
      expect_equal("status when its supervisor is killed", answer.status, 409);
      expect_contains("the reason", answer.body, "killed by signal 9");
    }
    expect_equal("generation", w.server.pool()["generation"], generation);
  };
  nobody_loses(printed("%d reloads that fail in each of %zu ways", count, failing.size() + 1),
               all_of_them, "the old generation serves");
}

void upgrades() {
  const int good = times(13), in_rehearsal = times(5), after_exec = times(2);
  std::vector<std::string> images(good, built("preforkd"));
  images.insert(images.end(), in_rehearsal, built("tests/system/images/dies"));
  for (int i = 0; i < after_exec; ++i)
    images.push_back(built(i % 2 ? "tests/system/images/throws" : "tests/system/images/crashes"));
  std::shuffle(images.begin(), images.end(), std::minstd_rand(1));
  const std::string what = printed(
      "%zu upgrades in place, %d of them with a binary that crashes in rehearsal, %d after the "
      "exec",
      images.size(), in_rehearsal, after_exec);
  nobody_loses(
      what,
      [&](World& w, Crowd& crowd) {
        for (const std::string& image : images) {
          w.installed.install(image);
          const bool well = image == built("preforkd");
          const Answer answer = w.server.request("POST", "/v1/upgrade");
          expect_equal("status of an upgrade to " + image + ": " + answer.body, answer.status,
                       well ? 200 : 409);
          wait_for_more(w, crowd, 500);
        }
        expect_equal("pid", w.server.status()["pid"], w.server.pid());
      },
      "the same process");
  world().installed.install(built("preforkd"));
}

void limits() {
  const int count = times(500);
  nobody_loses(printed("limits moved up and down %d times", count), [&](World& w, Crowd& crowd) {
    std::minstd_rand random(1);
    for (int i = 0; i < count; ++i) {
      // Room for the long ones is left: who waits for one of them is not lost, but is no steady load.
      const unsigned max = 55 + random() % 40, min = 1 + random() % max, spare = random() % 9;
      const std::string limits =
          printed(R"({"min": %u, "max": %u, "min_spare": %u, "max_spare": %u})", min, max, spare,
                  spare + 4);
      const Answer answer = w.server.request("PATCH", "/v1/pools/echo/limits", limits);
      expect_equal("status of " + limits + answer.body, answer.status, 200);
      wait_for_more(w, crowd, 50);
    }
    w.server.request(
        "PATCH", "/v1/pools/echo/limits",
        printed(R"({"min": %d, "max": %d, "min_spare": 4, "max_spare": 8})", kMin, kMax));
  });
}

// Who is served by a worker that is killed loses that connection, and nobody else. A killed worker explains one.
void expect_explained(const Outcomes& outcomes, std::set<pid_t> killed) {
  std::vector<Lost> unknown, unexplained;
  for (const Lost& lost : outcomes.lost) {
    const bool as_by_a_kill = lost.how == Loss::kReset || lost.how == Loss::kCutShort;
    if (lost.server == 0 && as_by_a_kill)
      unknown.push_back(lost);
    else if (!as_by_a_kill || !killed.erase(lost.server))
      unexplained.push_back(lost);
  }
  expect_equal("lost, and not by a worker that was killed", text_of(unexplained), "0");
  expect(unknown.size() <= killed.size(), "lost before they were answered: " + text_of(unknown));
  // Killed between accept and the first note of it: a connection that is in no books.
  const uint64_t all = outcomes.served + outcomes.lost.size(), noted = outcomes.accepted;
  expect(noted <= all && all - noted <= unknown.size(),
         printed("%lu connections, %lu accepted", all, noted));
  expect(outcomes.lost.size() - (all - noted) <= outcomes.failed,
         printed("%zu lost, %lu counted as failed", outcomes.lost.size(), outcomes.failed));
}

void worker_kills() {
  const int count = times(1000);
  constexpr int kMostWorkers = 70;
  std::set<pid_t> killed;
  std::string size;
  const Outcomes outcomes = under_load([&](World& w, Crowd& crowd) {
    w.server.ctl({"set", "echo", printed("max=%d", kMostWorkers)});
    w.server.wait_until("the pool is below the new limit", kPatience,
                        [&] { return w.server.pool()["workers"]["total"] <= kMostWorkers; });
    const pid_t supervisor = w.server.supervisor();
    PoolWatch watch(supervisor, kMin);
    std::minstd_rand random(1);
    for (int i = 0; i < count; ++i) {
      const std::vector<pid_t> workers = children_of(supervisor);
      if (workers.empty()) throw Failure("no worker is left");
      const pid_t victim = workers[random() % workers.size()];
      kill(victim, SIGKILL);
      killed.insert(victim);
      const timespec pause = to_timespec(random() % (10 * kMillisecond));
      nanosleep(&pause, nullptr);
      wait_for_more(w, crowd, 1);
    }
    watch.stop();
    w.server.ctl({"set", "echo", printed("max=%d", kMax)});
    expect_equal("the same supervisor", w.server.supervisor(), supervisor);
    expect(watch.most() <= kMostWorkers, printed("%d workers at once", watch.most()));
    expect(watch.longest_below_min() <= 0.1,
           printed("below min for %.3f s", watch.longest_below_min()));
    size = printed("at most %d workers, max %d; below min for %.0f ms at most", watch.most(),
                   kMostWorkers, watch.longest_below_min() * 1000);
  });
  expect_explained(outcomes, killed);
  add_line(printed("%d workers killed by SIGKILL at random moments", count), outcomes.load,
           printed("0, but for %zu that they were serving", outcomes.lost.size()), size);
}

void supervisor_kills() {
  const int count = times(50);
  auto one_after_the_other = [&](World& w, Crowd& crowd) {
    for (int i = 0; i < count; ++i) {
      const uint64_t served = crowd.served();
      const int generation = w.server.pool()["generation"];
      kill(w.server.supervisor(), SIGKILL);
      w.server.wait_until("its successor serves", kPatience, [&] {
        const Json pool = w.server.pool();
        return pool["generation"] > generation && pool["state"] == "running" &&
               crowd.served() > served + 1000;
      });
    }
  };
  nobody_loses(printed("%d supervisors killed", count), one_after_the_other, "theirs finish");
}

// Control is killed as soon as there is one (the daemon waits longer and longer for the next), and meanwhile all else that
// can be: what the next one says is never less.
void control_kills() {
  const int count = times(30);
  std::string seen;
  auto one_each_second = [&](World& w, Crowd&) {
    FiguresWatch watch(w.server);
    std::minstd_rand random(1);
    for (int i = 0; i < count; ++i) {
      kill(w.server.wait_for_process("preforkd: control"), SIGKILL);
      const Nanoseconds next = monotonic_now() + kSecond;
      while (monotonic_now() < next) {
        switch (random() % 4) {
          case 0:
            kill(w.server.wait_for_process("preforkd: supervisor"), SIGKILL);
            break;
          case 1:
            w.server.request("POST", "/v1/pools/echo/recycle");
            break;
          case 2:
            w.server.request("POST", "/v1/reload");
            break;
          case 3:
            w.server.request("PATCH", "/v1/pools/echo/limits", R"({"min_spare": 5})");
            break;
        }
        const timespec pause = to_timespec(random() % (300 * kMillisecond));
        nanosleep(&pause, nullptr);
      }
    }
    watch.stop();
    for (const std::string& fall : watch.falls()) expect(false, "a counter fell: " + fall);
    expect(watch.controls() > count / 2, printed("%d controls were seen", watch.controls()));
    seen = printed("%lu answers of %d controls: no counter ever fell", watch.answers(),
                   watch.controls());
  };
  nobody_loses(
      printed("control killed %d times, while supervisors are killed and generations come", count),
      one_each_second, seen);
}

void throughput() {
  const int pairs = std::max(5, times(10));
  World& w = world();
  Crowd crowd(w.address, {.threads = 16});
  wait_for_more(w, crowd, 1000);
  auto per_second = [&](const std::function<void()>& meanwhile) {
    const Nanoseconds began = monotonic_now(), until = began + 2 * kSecond;
    const uint64_t served = crowd.served();
    while (monotonic_now() < until) meanwhile();
    return static_cast<double>(crowd.served() - served) / to_seconds(monotonic_now() - began);
  };
  std::vector<double> ratios, without, with;
  int number = 0;
  for (int i = 0; i < pairs; ++i) {
    without.push_back(per_second([&] { wait_for_more(w, crowd, 100); }));
    with.push_back(per_second([&] { w.reload(pool_text(printed("number = %d;", ++number))); }));
    ratios.push_back(with.back() / without.back());
  }
  crowd.stop();
  expect_equal("lost", text_of(crowd.lost()), "0");
  for (auto* values : {&ratios, &without, &with}) std::sort(values->begin(), values->end());
  const size_t middle = ratios.size() / 2;
  add_line(printed("throughput while reloading, one reload after the other (%d)", number),
           printed("%.0f/s; without %.0f/s", with[middle], without[middle]),
           std::to_string(crowd.lost().size()),
           printed("%.1f %% (%.1f to %.1f)", ratios[middle] * 100, ratios.front() * 100,
                   ratios.back() * 100));
  w.settle();
}

void daemon_kills() {
  const int count = times(20);
  auto machine = Machine::boot(/*shares_loopback=*/true);
  if (!machine) return;
  machine->add_handler("unruly");
  machine->configure(
      "pools = ( { name = \"echo\"; listen = [ \"127.0.0.1:0\" ]; handler = \"unruly\";\n"
      "  workers = { min = 12; max = 96; min_spare = 4; }; } );\n"
      "control = { web = \"\"; };\n");
  machine->must({"systemctl", "start", "preforkd.service"});
  Crowd crowd(machine->pool()["listen"].at(0), kLoad);
  wait_until("the load is on", kPatience, [&] { return crowd.served() > 1000; });
  for (int i = 1; i <= count; ++i) {
    const uint64_t served = crowd.served();
    machine->must({"systemctl", "kill", "--kill-who=main", "-s", "KILL", "preforkd.service"});
    wait_until("systemd has started it again, and clients are served", kLongAnswer, [&] {
      return machine->property("NRestarts") == std::to_string(i) && machine->is_active() &&
             crowd.served() > served + 6000;  // a second's
    });
  }
  crowd.stop();
  expect_equal("lost", text_of(crowd.lost()), "0");
  add_line(printed("the daemon killed %d times under systemd with its unit", count), load_of(crowd),
           std::to_string(crowd.lost().size()), "none refused; those in service finish");
  machine->must({"systemctl", "stop", "preforkd.service"});
}

// As before: but for what the allocator keeps, and what is paged in.
void nothing_is_left() {
  World& w = world();
  w.settle();
  const Holdings& before = w.before;
  const Holdings after = holdings_of(w.server);
  auto text = [](const auto& map) {
    std::ostringstream all;
    for (const auto& [title, number] : map)
      all << (all.tellp() > 0 ? ", " : "") << title << " " << number;
    return all.str();
  };
  expect_equal("processes", text(after.processes), text(before.processes));
  w.server.wait_until("no descriptor is over", kPatience, [&] {
    const Holdings now = holdings_of(w.server);
    for (const auto& [title, count] : w.descriptors_at_start)
      if (now.descriptors.at(title) > count)
        throw Failure(text(now.descriptors) + "; at the start " + text(w.descriptors_at_start));
    return true;
  });
  expect_no_segment_left();
  for (const auto& [title, kb] : before.private_kb)
    expect(after.private_kb.at(title) <= kb + kb / 4 + 256,
           printed("memory of %s: %lu kB before, %lu kB after", title.c_str(), kb,
                   after.private_kb.at(title)));
  add_line("after all of it", "", "",
           "processes and descriptors as before; Private_Dirty in kB: " + text(before.private_kb) +
               "; then " + text(after.private_kb),
           true);
  the_world().reset();
}

}  // namespace

Suite soak_suite() {
  return {.name = "soak",
          .tests = {{"reloads", reloads},
                    {"reloads that fail", reloads_that_fail},
                    {"limits", limits},
                    {"workers killed", worker_kills},
                    {"supervisors killed", supervisor_kills},
                    {"control killed", control_kills},
                    {"upgrades", upgrades},
                    {"throughput", throughput},
                    {"daemon killed", daemon_kills},
                    {"nothing is left", nothing_is_left}},
          .has_end = true};
}

}  // namespace preforkd::system_test
