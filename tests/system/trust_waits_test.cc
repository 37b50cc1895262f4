// Pools that make others wait: a full /dev/shm, a preload that hangs, and orders in the midst of a reload.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdio>
#include <list>
#include <optional>

#include "base/clock.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

// --- a full /dev/shm -----------------------------------------------------------------------------

// In the child: a /dev/shm of its own, with room for what it may need and no more than 16 MB.
void own_dev_shm() {
  if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
      mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=16m,mode=1777") < 0) {
    perror("make a /dev/shm");
    _exit(77);
  }
}

void full_dev_shm() {
  if (!can_attack()) return;
  Server server({attacker("alice", "program = [ \"" + attacking_program() + "\" ];"), bobs_pool()},
                {.in_child = own_dev_shm});
  Attacker alice(server.address("alice"));
  expect(alice.obeys("fill /dev/shm/full") != "0", "alice has filled /dev/shm");
  const pid_t before = supervisor_of(server, "bob");
  kill(before, SIGKILL);
  server.wait_until("bob has another supervisor", kPatience,
                    [&] { return supervisor_of(server, "bob") != before; });
  server.wait_for("/state", "running", "bob");
  expect(Client(server.address("bob")).echoes("hello\n"), "bob's clients are served");
  PoolText more = bobs_pool();
  more.workers = "min = 3; max = 8;";
  PoolText another = bobs_pool("another");
  server.write_config(config_of(
      {attacker("alice", "program = [ \"" + attacking_program() + "\" ];"), more, another}));
  const Answer reload = server.request("POST", "/v1/reload");
  expect(reload.status == 200, "a reload that adds a pool: " + reload.body);
  const Answer recycle = server.request("POST", "/v1/pools/bob/recycle");
  expect(recycle.status == 200, "bob's pool is renewed: " + recycle.body);
  expect(Client(server.address("bob")).echoes("hello\n"), "bob's clients are served");
}

// --- a preload that hangs ------------------------------------------------------------------------

// It hangs while the file @DIR@/hang exists; timeouts.start is one second.
PoolText hanging() {
  PoolText pool = {.name = "hang",
                   .serves = attacking_handler("hang_while = \"@DIR@/hang\";"),
                   .workers = "min = 1; max = 4;",
                   .timeouts = "start = 1.0; drain = 1.0;"};
  return pool;
}

void expect_degraded_and_tried_again(Server& server) {
  server.wait_for("/state", "degraded", "hang", 1 + 2);
  expect(server.pool("hang")["reason"].get<std::string>() != "", "the reason is shown");
  const uint64_t generation = server.pool("hang")["generation"];
  server.wait_until("it is tried again", 15,
                    [&] { return server.pool("hang")["generation"].get<uint64_t>() > generation; });
}

void preload_hangs_at_the_start() {
  Server server(config_of({hanging(), PoolText{.name = "bob"}}), {.wait_until_ready = false});
  const std::string hang = server.folder().write("hang", "");
  const Nanoseconds began = monotonic_now();
  server.wait_until("the others are running", 1 + 2,
                    [&] { return server.pool("bob")["state"] == "running"; });
  const std::string ready = "preforkd: ready: 1 of 2 pools running";
  server.wait_until("the daemon says that it is ready", 1 + 2 + 0.5,
                    [&] { return server.log().find(ready) != std::string::npos; });
  const double elapsed = to_seconds(monotonic_now() - began);
  expect(elapsed < 1 + 2 + 0.5, "it took " + std::to_string(elapsed) + " s");
  expect_degraded_and_tried_again(server);
  unlink(hang.c_str());
  server.wait_for("/state", "running", "hang", 20);
  expect(Attacker(server.address("hang")).obeys("pid") != "", "its clients are served");
  expect_stops(server);
}

// Its workers have finished, and its successor hangs.
void preload_hangs_later() {
  Server server({hanging(), PoolText{.name = "bob"}});
  const std::string hang = server.folder().write("hang", "");
  kill(supervisor_of(server, "hang"), SIGKILL);
  expect_degraded_and_tried_again(server);
  unlink(hang.c_str());
  server.wait_for("/state", "running", "hang", 20);
  expect(Attacker(server.address("hang")).obeys("pid") != "", "its clients are served");
  expect_stops(server);
}

Client ask_and_wait(Server& server, const std::string& pool) {
  return begin_request(server, "PATCH", "/v1/pools/" + pool + "/limits", "{\"shrink_after\": 30}");
}

void set_while_preload_hangs() {
  PoolText pool = hanging();
  pool.timeouts = "start = 6.0; drain = 1.0;";
  Server server({pool, PoolText{.name = "bob"}});
  const std::string hang = server.folder().write("hang", "");
  const pid_t before = supervisor_of(server, "hang");
  kill(before, SIGKILL);
  server.wait_until("its next supervisor is there", kPatience, [&] {
    const pid_t now = supervisor_of(server, "hang");
    return now != before && is_running(now);
  });
  std::list<Client> waiting;
  for (int i = 0; i < 200; ++i) {
    waiting.push_back(ask_and_wait(server, "hang"));
    if (i % 20 == 0) set_in_time(server, "bob");
    if (waiting.size() > 40) waiting.pop_front();  // it gives up
  }
  waiting.clear();
  set_in_time(server, "bob");
  Client asked = ask_and_wait(server, "hang");
  const std::string answer = asked.read_line(10);
  expect_contains("the answer to set on a pool that hangs", answer, "HTTP/1.1 ");
  set_in_time(server, "bob");
  unlink(hang.c_str());
  server.wait_for("/state", "running", "hang", 20);
  set_in_time(server, "hang");
  expect_stops(server);
}

// --- orders while a reload counts workers --------------------------------------------------------

// Two pools, of which `slow` has a supervisor that is stopped: a reload waits for it while it counts.
class Reloading {
 public:
  static std::vector<PoolText> pools(const std::string& file, const std::string& workers) {
    return {PoolText{.name = "a",
                     .serves = attacking_handler(),
                     .workers = workers,
                     .timeouts = "start = 5.0; drain = 1.0;",
                     .more = "environment = { WHICH_FILE = \"" + file + "\"; };"},
            PoolText{.name = "slow", .timeouts = "start = 5.0; drain = 1.0;"}};
  }

  Reloading() : server(pools("old", kBefore)) {}

  // The file has other settings for `a`, which take new processes, and another `min`.
  void begin() {
    server.write_config(config_of(pools("new", kAfter)));
    slow_ = supervisor_of(server, "slow");
    kill(slow_, SIGSTOP);
    // The second one to come is refused: there is the first one then.
    std::list<Client> both;
    for (int i = 0; i < 2; ++i) both.push_back(begin_request(server, "POST", "/v1/reload"));
    system_test::wait_until("the reload has begun", kPatience,
                            [&] { return both.front().has_answer() || both.back().has_answer(); });
    Client& refused = both.front().has_answer() ? both.front() : both.back();
    expect_contains("a second reload", refused.read_line(), " 409 ");
    reload_ = std::move(&refused == &both.front() ? both.back() : both.front());
  }
  Answer ask(const std::string& what) { return server.request("POST", "/v1/pools/a/" + what); }

  // Its supervisor goes on, and the reload is answered: whether with 200.
  bool finish() {
    if (is_running(slow_)) kill(slow_, SIGCONT);
    const std::string answer = reload_->read_until_eof(kPatience);
    reload_.reset();
    return answer.starts_with("HTTP/1.1 200 ");
  }

  std::string settings_in_force() {
    return Attacker(server.address("a")).obeys("variable WHICH_FILE");
  }

  // Whatever happened, the file is in force after another one.
  void expect_repaired_by_another() {
    const Answer again = server.request("POST", "/v1/reload");
    expect(again.status == 200, "a reload afterwards: " + again.body);
    expect_equal("min", server.pool("a")["limits"]["min"].get<int>(), 3);
    expect_equal("the settings in force", settings_in_force(), "new");
  }

  static constexpr char kBefore[] = "min = 2; max = 8;", kAfter[] = "min = 3; max = 8;";
  Server server;

 private:
  std::optional<Client> reload_;
  pid_t slow_ = 0;
};

void drain_in_a_reload() {
  Reloading during;
  during.begin();
  const Answer drained = during.ask("drain");
  const bool reloaded = during.finish();
  if (drained.status == 200) {
    const std::string state = during.server.pool("a")["state"];
    expect(state == "draining" || state == "stopped", "a pool that was drained is " + state);
    during.server.wait_for("/state", "stopped", "a");
    expect_equal("workers of it", during.server.worker_pids("a").size(), 0u);
    expect_equal("resume", during.ask("resume").status, 200);
  } else {
    expect_equal("a drain in a reload is refused with", drained.status, 409);
    expect(reloaded, "the reload has taken effect");
  }
  during.server.wait_for("/state", "running", "a");
  during.expect_repaired_by_another();
}

void resume_in_a_reload() {
  Reloading during;
  expect_equal("drain", during.ask("drain").status, 200);
  during.server.wait_for("/state", "stopped", "a");
  during.begin();
  const Answer resumed = during.ask("resume");
  const bool reloaded = during.finish();
  expect(reloaded, "the reload has taken effect");
  if (resumed.status == 200)
    during.server.wait_for("/state", "running", "a");
  else
    expect_equal("resume", during.ask("resume").status, 200);
  during.server.wait_for("/state", "running", "a");
  expect_equal("min in force", during.server.pool("a")["limits"]["min"].get<int>(), 3);
  during.server.wait_until("three workers are there", kPatience,
                           [&] { return during.server.worker_pids("a").size() >= 3; });
  expect_equal("the settings in force", during.settings_in_force(), "new");
  during.expect_repaired_by_another();
}

void set_in_a_reload() {
  Reloading during;
  during.begin();
  const Answer set = during.server.request("PATCH", "/v1/pools/a/limits", "{\"min\": 5}");
  const bool reloaded = during.finish();
  expect(reloaded, "the reload has taken effect");
  expect(set.status == 200 || set.status == 409, "set in a reload: " + set.body);
  // The file's, which is the later of the two to be answered; and what is shown is what is in force.
  expect_equal("min in force", during.server.pool("a")["limits"]["min"].get<int>(), 3);
  during.expect_repaired_by_another();
}

void stop_in_a_reload() {
  Reloading during;
  during.begin();
  expect_stops(during.server, 8);
}

}  // namespace

Suite trust_waits_suite() {
  return {"trust_waits",
          {{"full /dev/shm", full_dev_shm},
           {"a preload hangs at the start", preload_hangs_at_the_start},
           {"a preload hangs later", preload_hangs_later},
           {"set while a preload hangs", set_while_preload_hangs},
           {"drain in a reload", drain_in_a_reload},
           {"resume in a reload", resume_in_a_reload},
           {"set in a reload", set_in_a_reload},
           {"stop in a reload", stop_in_a_reload}}};
}

}  // namespace preforkd::system_test
