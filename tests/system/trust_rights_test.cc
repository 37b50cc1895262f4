// What a pool's processes can put into the daemon's hands: descriptors that take 40 s to close, along with a report,
// and more reports than anybody can read. By each seat: preload, a constructor, a worker, a program, a program that
// accepts by itself, a process that was left behind.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <optional>
#include <regex>

#include "base/clock.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

// --- rights --------------------------------------------------------------------------------------

// A server with a pool of alice's, whose preload or constructor does what a file says.
struct Stage {
  explicit Stage(const std::string& orders_of_preload = "")
      : server({attacker("alice", attacking_handler("preload = \"@DIR@/alice/preload\";"),
                         "environment = { TRUST_CONSTRUCTOR = \"@DIR@/alice/constructor\"; };"),
                bobs_pool()}) {
    folder = alices_folder(server);
    if (!orders_of_preload.empty()) in_next_supervisor("preload", orders_of_preload);
  }

  // The answer of who does it there: "preload", or "constructor".
  std::string in_next_supervisor(const std::string& who, const std::string& orders) {
    const pid_t before = supervisor_of(server, "alice");
    const std::string path = server.folder().write("alice/" + who, orders + "\n");
    unlink((path + ".answers").c_str());
    kill(before, SIGKILL);
    std::string answers;
    server.wait_until(who + " has done it", kPatience, [&] {
      answers = file_text(path + ".answers");
      return answers.ends_with("\n");
    });
    unlink(path.c_str());
    return answers;
  }

  void expect_unharmed(const std::string& did) {
    expect(did != "0 taken of 0", "the attack was made: " + did);
    expect_steerable(server, "bob", 1.5);
    expect(Client(server.address("bob")).echoes("hello\n"), "bob's clients are served");
    expect_stops(server);
  }

  Server server;
  std::string folder;
};

void rights_by_preload() {
  if (!can_attack()) return;
  Stage stage;
  stage.expect_unharmed(stage.in_next_supervisor("preload", "rights"));
}

void rights_by_a_constructor() {
  if (!can_attack()) return;
  Stage stage;
  stage.expect_unharmed(stage.in_next_supervisor("constructor", "rights"));
}

// The first one that comes from a worker ends its channel: a few times, then.
void rights_by_a_worker() {
  if (!can_attack()) return;
  Stage stage("keep");
  for (int i = 0; i < 4; ++i) {
    stage.server.wait_for("/state", "running", "alice");
    Attacker worker(stage.server.address("alice"));
    worker.begin("rights");
    expect_steerable(stage.server, "bob", 1);
    stage.in_next_supervisor("preload", "keep");
  }
  stage.expect_unharmed("its part");
}

void rights_by_who_is_left_behind() {
  if (!can_attack()) return;
  Stage stage;
  for (int i = 0; i < 4; ++i) {
    const std::string name = name_for_left() + std::to_string(i);
    stage.in_next_supervisor("preload", "keep;leave " + name + " obeys");
    stage.server.wait_for("/state", "running", "alice");
    Attacker left("unix:@" + name);
    left.begin("rights");
    expect_steerable(stage.server, "bob", 1);
  }
  stage.expect_unharmed("its part");
}

// Neither has a descriptor that leads to the daemon, or should have one.
void rights_by_programs() {
  if (!can_attack()) return;
  Server server({attacker("program", "program = [ \"" + attacking_program() + "\" ];"),
                 attacker("snake", attacking_script()), bobs_pool()});
  Attacker program(server.address("program"));
  program.obeys("rights");
  const std::string name = name_for_left();
  Attacker script(server.address("snake"));
  script.obeys("leave " + name + " obeys");
  Attacker("unix:@" + name).obeys("rights");
  expect_steerable(server, "bob", 1.5);
  expect(Client(server.address("bob")).echoes("hello\n"), "bob's clients are served");
  expect_stops(server);
}

// --- floods --------------------------------------------------------------------------------------

constexpr double kFlooded = 4;  // seconds
constexpr double kShare = 0.2;  // of one processor

double seconds_of_processor(pid_t pid) {
  const std::string line = file_text("/proc/" + std::to_string(pid) + "/stat");
  const size_t end = line.rfind(')');
  unsigned long user = 0, system = 0;
  if (end != line.npos)
    std::sscanf(line.c_str() + end + 1, " %*c %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %lu %lu",
                &user, &system);
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// "12 reports were dropped", "34 log lines were lost": whichever way it is put.
bool says_what_is_missing(const std::string& log) {
  static const std::regex said(
      "[0-9]+ [^\n]*(dropped|lost|left out|not written|not read|not logged|discarded|ignored|"
      "skipped|held back|more)");
  return std::regex_search(log, said);
}

// alice floods, from her next supervisor on; `begin` is what makes it.
void expect_flood_is_bounded(const std::string& how, const std::function<void(Server&)>& begin) {
  PoolText alice =
      attacker("alice", attacking_handler("preload = \"@DIR@/alice/preload\"; flood = \"" + how +
                                          "\"; flood_while = \"@DIR@/alice/flood\";"));
  alice.timeouts = "start = 10.0; drain = 1.0;";
  Server server({alice, bobs_pool()});
  alices_folder(server);
  server.folder().write("alice/preload", "keep\n");
  const std::string path = server.folder().write("alice/flood", "");
  const size_t before = server.log().size();
  begin(server);
  if (how == "locks")
    server.wait_until("it has its locks", kPatience,
                      [&] { return !file_text(path + ".begun").empty(); });
  const double spent_before = seconds_of_processor(server.pid());
  const Nanoseconds began = monotonic_now();
  expect_steerable(server, "bob", kFlooded);
  const double elapsed = to_seconds(monotonic_now() - began);
  const double spent = seconds_of_processor(server.pid()) - spent_before;
  expect(spent < kShare * elapsed,
         "the daemon took " + std::to_string(spent) + " s in " + std::to_string(elapsed) + " s");
  const size_t grown = server.log().size() - before;
  expect(grown < size_t{5} << 20, "the log grew by " + std::to_string(grown >> 10) + " KiB");
  expect(Client(server.address("bob")).echoes("hello\n"), "bob's clients are served");
  // Who floods by copies is not whom the daemon believes: nothing of it is missing.
  if (how == "reports" || how == "logs")
    server.wait_until("it is said how much is missing", kPatience,
                      [&] { return says_what_is_missing(server.log().substr(before)); });
  unlink(path.c_str());
  server.wait_for("/state", "running", "alice", 20);
  expect_stops(server, 8);
}

void kill_supervisor(Server& server) { kill(supervisor_of(server, "alice"), SIGKILL); }

void floods_of_reports() {
  if (can_attack()) expect_flood_is_bounded("reports", kill_supervisor);
}

void floods_of_log_lines() {
  if (can_attack()) expect_flood_is_bounded("logs", kill_supervisor);
}

void floods_in_a_trial() {
  if (!can_attack()) return;
  std::optional<Client> asked;  // who asks for it waits
  expect_flood_is_bounded("logs", [&](Server& server) {
    asked = begin_request(server, "POST", "/v1/pools/alice/recycle");
  });
}

void floods_behind_locks() {
  if (can_attack()) expect_flood_is_bounded("locks", kill_supervisor);
}

void floods_by_workers() {
  if (can_attack()) expect_flood_is_bounded("copies", kill_supervisor);
}

}  // namespace

Suite trust_rights_suite() {
  return {"trust_rights",
          {{"rights by preload", rights_by_preload},
           {"rights by a constructor", rights_by_a_constructor},
           {"rights by a worker", rights_by_a_worker},
           {"rights by who is left behind", rights_by_who_is_left_behind},
           {"rights by programs", rights_by_programs},
           {"floods of reports", floods_of_reports},
           {"floods of log lines", floods_of_log_lines},
           {"floods in a trial", floods_in_a_trial},
           {"floods behind locks", floods_behind_locks},
           {"floods by workers", floods_by_workers}}};
}

}  // namespace preforkd::system_test
