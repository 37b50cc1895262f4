// What outlives its generation: a process that code of a pool leaves behind, in a session of its own, with the
// listen sockets that it had; and a supervisor that says yes to everything and does nothing. Neither keeps an address, a pool
// or an upgrade from anybody.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/clock.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

constexpr double kDrain = 1;  // seconds, of each pool here
constexpr double kGoneAfter =
    kDrain + 5 + 2;  // and a look each 100 ms, on a machine with others on it

PoolText on_port(PoolText pool, const TakenPort& port) {
  pool.listen = port.quoted();
  pool.timeouts = "start = 2.0; drain = 1.0;";
  return pool;
}

// alice's pool on an address that can be given to another, and bob's.
struct Stage {
  explicit Stage(
      const std::string& serves = attacking_handler("preload = \"@DIR@/alice/preload\";"))
      : alice((port.free(), on_port(attacker("alice", serves), port))),
        server({alice, bobs_pool()}) {
    alices_folder(server);
  }

  // By a worker. All of them by one: from then on others answer there, too.
  void leaves(const std::vector<std::string>& how) {
    Attacker worker(port.address());
    for (const std::string& one : how) leaves_by(worker, one);
  }
  // The same by what preload has left, which takes orders only.
  void preload_and_worker_leave(const std::vector<std::string>& how) {
    const std::string name = name_for_left() + "o";
    const std::string path = server.folder().write("alice/preload", "leave " + name + " obeys\n");
    kill(supervisor_of(server, "alice"), SIGKILL);
    server.wait_until("preload has left it behind", kPatience, [&] { return is_left(name); });
    unlink(path.c_str());
    server.wait_for("/state", "running", "alice");
    names.push_back(name);
    Attacker worker(port.address()), of_preload("unix:@" + name);
    expect(worker.obeys("pid") != "", "a worker serves");
    for (const std::string& one : how) {
      leaves_by(of_preload, one);
      leaves_by(worker, one);
    }
  }
  void leaves_by(Attacker& attacker, const std::string& how) {
    const std::string name = name_for_left() + std::to_string(names.size());
    const std::string pid = attacker.obeys("leave " + name + " " + how);
    expect(is_left(name), name + " is there");
    names.push_back(name);
    if (how != "chain") pids.push_back(pid);  // it has many
  }

  void reload(const std::vector<PoolText>& pools) {
    server.write_config(config_of(pools));
    const Answer answer = server.request("POST", "/v1/reload");
    if (answer.status != 200) throw Failure("reload: " + answer.body);
  }

  // From now on, after the generation's end.
  void expect_gone() {
    system_test::wait_until("all that were left behind are gone", kGoneAfter, [&] {
      for (const std::string& name : names)
        if (is_left(name)) throw Failure(name + " is there");
      return true;
    });
    for (const std::string& pid : pids)
      server.wait_until("the log has the pid of what was left behind: " + pid, kPatience,
                        [&] { return is_said(pid); });
    expect(Client(server.address("bob")).echoes("hello\n"), "bob's clients are served");
    expect_stops(server);
  }

  // A pid in the log, not as part of a longer number.
  bool is_said(const std::string& pid) {
    const std::string log = server.log();
    auto is_digit = [&](size_t at) { return at < log.size() && std::isdigit(log[at]); };
    for (size_t at = 0; (at = log.find(pid, at)) != log.npos; ++at)
      if (!is_digit(at + pid.size()) && (at == 0 || !is_digit(at - 1))) return true;
    return false;
  }

  TakenPort port;
  PoolText alice;
  Server server;
  std::vector<std::string> names, pids;
};

void recycled() {
  if (!can_attack()) return;
  Stage stage;
  stage.preload_and_worker_leave({"plain", "stubborn"});
  expect_equal("recycle", stage.server.request("POST", "/v1/pools/alice/recycle").status, 200);
  stage.expect_gone();
}

void expect_to_go_with_the_pool(const std::vector<std::string>& how) {
  if (!can_attack()) return;
  Stage stage;
  stage.leaves(how);
  stage.reload({bobs_pool()});
  stage.expect_gone();
}

void taken_away() { expect_to_go_with_the_pool({"stubborn", "plain"}); }

// It dies, and has children, faster than anybody can look.
void chained() { expect_to_go_with_the_pool({"chain"}); }

// Each has to be met when the one above it is gone.
void deep() { expect_to_go_with_the_pool({"deep"}); }

// The lists of processes that the daemon reads must not be told lies by their names.
void misnamed() {
  if (!can_attack()) return;
  Stage stage;
  stage.leaves({"line", "state", "user"});
  expect_equal("recycle", stage.server.request("POST", "/v1/pools/alice/recycle").status, 200);
  stage.expect_gone();
}

void many() {
  if (!can_attack()) return;
  Stage stage;
  stage.leaves({"many"});
  expect_equal("recycle", stage.server.request("POST", "/v1/pools/alice/recycle").status, 200);
  expect_steerable(stage.server, "bob", kDrain + 2);  // TERM and KILL are within that
  stage.expect_gone();
}

void after_their_supervisor() {
  if (!can_attack()) return;
  Stage stage;
  stage.leaves({"plain"});
  const pid_t before = supervisor_of(stage.server, "alice");
  kill(before, SIGKILL);
  stage.server.wait_until("the next supervisor is there", kPatience,
                          [&] { return supervisor_of(stage.server, "alice") != before; });
  stage.server.wait_for("/state", "running", "alice");
  stage.expect_gone();
}

void drained() {
  if (!can_attack()) return;
  Stage stage;
  stage.leaves({"plain", "stubborn"});
  expect_equal("drain", stage.server.request("POST", "/v1/pools/alice/drain").status, 200);
  stage.server.wait_for("/state", "stopped", "alice", kGoneAfter);
  stage.expect_gone();
}

void by_a_program() {
  if (!can_attack()) return;
  Stage stage("program = [ \"" + attacking_program() + "\" ];");
  stage.leaves({"plain", "stubborn"});
  stage.reload({bobs_pool()});
  stage.expect_gone();
}

void by_a_script() {
  if (!can_attack()) return;
  Stage stage(attacking_script());
  stage.leaves({"plain"});
  expect_equal("recycle", stage.server.request("POST", "/v1/pools/alice/recycle").status, 200);
  stage.expect_gone();
}

// From when the reload is answered, whoever connects there is bob's.
void address_moves() {
  if (!can_attack()) return;
  Stage stage;
  stage.preload_and_worker_leave({"plain", "stubborn", "chain"});
  stage.reload({on_port(bobs_pool(), stage.port)});
  size_t others = 0;
  std::string heard;
  for (int i = 0; i < 200; ++i) {
    Client client(stage.port.address());
    client.send("hello\n");
    const std::string answer = client.read_line();
    if (answer == "hello") continue;
    ++others;
    heard = answer;
  }
  expect(others == 0,
         std::to_string(others) + " of 200 clients of bob's were not answered by him: " + heard);
  stage.expect_gone();
}

// --- one supervisor after the other ---------------------------------------------------------------

constexpr size_t kMostLost = 16;  // generations, as in daemon/pool.cc
constexpr char kWaits[] = "waits for the end of one of the last 16 generations";

// The daemon has the dead one's children before it has looked at the death, and others of their user look for theirs.
void kill_unseen(Server& server, pid_t supervisor) {
  kill(server.pid(), SIGSTOP);
  kill(supervisor, SIGKILL);
  server.wait_until("the supervisor is dead", kPatience, [&] { return !is_running(supervisor); });
  kill(server.pid(), SIGCONT);
}

// What each leaves has half a minute, and the oldest of too many has not.
void supervisors_that_die() {
  if (!can_attack()) return;
  PoolText alice = attacker("alice", attacking_handler("preload = \"@DIR@/alice/preload\";"));
  alice.timeouts = "start = 2.0; drain = 30.0;";
  Server server({alice, bobs_pool()});
  alices_folder(server);
  const std::string name = name_for_left();
  for (size_t i = 0; i <= kMostLost; ++i) {
    const std::string next = name + "_" + std::to_string(i);
    server.folder().write("alice/preload", "leave " + next + " stubborn\n");
    kill_unseen(server, supervisor_of(server, "alice"));
    server.wait_until("one more is left behind", kPatience, [&] { return is_left(next); });
    server.wait_for("/state", "running", "alice");
  }
  expect_contains("the log", server.log(), kWaits);
  server.wait_until("the oldest is gone", kPatience, [&] { return !is_left(name + "_0"); });
  expect(is_left(name + "_8"), "one that is not so old is there");
  set_in_time(server, "bob");
  server.signal(SIGINT);  // the others have no more time, either
  expect_equal("its exit", server.wait_exit(kGoneAfter), 0);
  expect(!is_left(name + "_8"), "nobody is left when all has ended");
}

size_t supervisors(Server& server) {
  const auto all = children_of(server.pid());
  return static_cast<size_t>(std::count_if(all.begin(), all.end(), is_supervisor));
}

void supervisors_that_leave_and_stay() {
  if (!can_attack()) return;
  Stage stage(attacking_handler("quiet_while = \"@DIR@/quiet\";"));
  const std::string path = stage.server.folder().write("quiet", "");
  const pid_t first = supervisor_of(stage.server, "alice");
  kill(first, SIGKILL);
  size_t most = 0;
  stage.server.wait_until("no more are launched", kPatience, [&] {
    most = std::max(most, supervisors(stage.server));
    return stage.server.log().find(kWaits) != std::string::npos;
  });
  stage.server.wait_until("the first that stayed has ended", kGoneAfter + kPatience, [&] {
    most = std::max(most, supervisors(stage.server));
    return stage.server.log().find("generation 2 has ended") != std::string::npos;
  });
  expect(most <= kMostLost + 1, std::to_string(most) + " supervisors, of whom one is bob's");
  set_in_time(stage.server, "bob");
  unlink(path.c_str());
  expect(Attacker(stage.port.address()).obeys("pid", kPatience * 2) != "", "the next one serves");
  stage.server.wait_for("/state", "running", "alice");
  stage.server.signal(SIGINT);
  expect_equal("its exit", stage.server.wait_exit(kGoneAfter), 0);
}

// --- a supervisor that does not obey -------------------------------------------------------------

struct MadStage : Stage {
  MadStage() : Stage(attacking_handler("mad_while = \"@DIR@/mad\";")) {
    supervisor = supervisor_of(server, "alice");
    workers = server.worker_pids("alice");
    server.folder().write("mad." + std::to_string(supervisor), "");
    server.wait_until("the supervisor is mad", kPatience, [&] {
      return doing(supervisor).find("hrtimer_nanosleep") != std::string::npos;
    });
  }
  void expect_over(const std::string& what) {
    server.wait_until(what + ": the supervisor is gone", kGoneAfter,
                      [&] { return !is_running(supervisor); });
    server.wait_until(what + ": its workers are gone", kGoneAfter, [&] {
      for (pid_t pid : workers)
        if (is_running(pid)) return false;
      return true;
    });
    server.wait_for_log(std::to_string(supervisor));
    expect_steerable(server, "bob", 0);
  }
  pid_t supervisor = 0;
  std::vector<pid_t> workers;
};

void mad_supervisor_of_a_removed_pool() {
  if (!can_attack()) return;
  MadStage stage;
  stage.reload({bobs_pool()});
  stage.expect_over("a pool that was taken away");
  stage.server.wait_until("it is not shown any more", kPatience,
                          [&] { return stage.server.status()["pools"].size() == 1; });
  const Answer upgrade = stage.server.request("POST", "/v1/upgrade");
  expect(upgrade.status == 200, "an upgrade afterwards: " + upgrade.body);
  stage.server.wait_until_ready();
  expect(Client(stage.server.address("bob")).echoes("hello\n"), "bob's clients are served");
  expect_stops(stage.server);
}

void mad_supervisor_of_a_recycled_pool() {
  if (!can_attack()) return;
  MadStage stage;
  expect_equal("recycle", stage.server.request("POST", "/v1/pools/alice/recycle").status, 200);
  stage.expect_over("a pool that was renewed");
}

// "stop": every worker now.
void mad_supervisor_at_the_end() {
  if (!can_attack()) return;
  MadStage stage;
  expect_stops(stage.server, kGoneAfter);
}

}  // namespace

Suite trust_left_suite() {
  return {"trust_left",
          {{"recycled", recycled},
           {"taken away", taken_away},
           {"chained", chained},
           {"deep", deep},
           {"misnamed", misnamed},
           {"many", many},
           {"after their supervisor", after_their_supervisor},
           {"drained", drained},
           {"by a program", by_a_program},
           {"by a script", by_a_script},
           {"the address moves", address_moves},
           {"supervisors that die", supervisors_that_die},
           {"supervisors that leave and stay", supervisors_that_leave_and_stay},
           {"a mad supervisor of a removed pool", mad_supervisor_of_a_removed_pool},
           {"a mad supervisor of a recycled pool", mad_supervisor_of_a_recycled_pool},
           {"a mad supervisor at the end", mad_supervisor_at_the_end}}};
}

}  // namespace preforkd::system_test
