// The attacks that matter most, under a real systemd: the unit as it is shipped, with pool-users.conf, in whose
// sandbox daemon, control and pools all are.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <sstream>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/machine.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

constexpr char kInstalled[] = "/usr/local/lib/preforkd/handlers/";
constexpr char kCgroup[] = "/sys/fs/cgroup/system.slice/preforkd.service";

constexpr double kGoneAfter = 1 + 5 + 2;  // the drain, patience, and a look each 100 ms

struct Process {
  pid_t pid = 0, parent = 0;
  std::string user, uid, title;
};

std::vector<Process> processes_in(Machine& machine) {
  std::istringstream lines(machine.must({"ps", "-eo", "pid=,ppid=,user:32=,uid=,args="}));
  std::vector<Process> all;
  for (std::string line; std::getline(lines, line);) {
    Process p;
    std::istringstream words(line);
    words >> p.pid >> p.parent >> p.user >> p.uid;
    std::getline(words >> std::ws, p.title);
    if (p.title.starts_with("preforkd: ")) all.push_back(p);
  }
  return all;
}

// Pools on fixed ports of a loopback that is ours, too.
class UnitStage {
 public:
  // Null where it cannot be had, which is said.
  static std::unique_ptr<UnitStage> boot() {
    if (are_sanitized()) return skip("attackers and sanitizers are in each other's way"), nullptr;
    auto machine = Machine::boot(true);
    return machine ? std::make_unique<UnitStage>(std::move(machine)) : nullptr;
  }
  explicit UnitStage(std::unique_ptr<Machine> booted) : machine(std::move(booted)) {
    for (TakenPort* port : {&handler, &program, &plain, &bob, &serve}) port->free();
    machine->add_handler("trust");
    machine->add_program("trust");
    machine->must({"install", "-D", "-m", "644", "-t", "/run/systemd/system/preforkd.service.d",
                   "/usr/local/share/doc/preforkd/pool-users.conf"});
    // Where alice may write.
    machine->must({"install", "-d", "-o", kAlice, "/run/alice"});
    machine->add_to_service("alice", "ReadWritePaths=/run/alice");
    machine->must({"sh", "-c", "printf %s \"$0\" >/run/alice/attack.py",
                   script_that_attacks_by(kInstalled + std::string("trust"))});
    machine->configure(config_of(pools()));
    machine->must({"systemctl", "start", "preforkd.service"});
  }

  std::vector<PoolText> pools() const {
    const std::string its_program = std::string("program = [ \"") + kInstalled + "trust\" ];";
    auto on = [](PoolText pool, const TakenPort& port) {
      pool.listen = port.quoted();
      pool.timeouts = "start = 2.0; drain = 1.0;";
      return pool;
    };
    PoolText without_user = attacker("plain", its_program);
    without_user.more = "";
    return {on(attacker("handler",
                        "handler = \"trust\"; settings = { preload = \"/run/alice/preload\"; };"),
               handler),
            on(attacker("program", its_program), program), on(without_user, plain),
            on(bobs_pool(), bob),
            on(attacker("serve", "serve = [ \"python3\", \"/run/alice/attack.py\" ];"), serve)};
  }

  std::vector<Process> processes() const { return processes_in(*machine); }

  // As inside, where alone its pid means anything.
  pid_t supervisor(const std::string& pool) const {
    for (const Process& p : processes())
      if (p.title == "preforkd: supervisor " + pool) return p.pid;
    return 0;
  }

  // In the next supervisor of the handler's pool.
  std::string in_preload(const std::string& orders) const {
    machine->must({"sh", "-c", "printf '%s\\n' \"$0\" >/run/alice/preload", orders});
    machine->must({"kill", "-KILL", std::to_string(supervisor("handler"))});
    std::string answers;
    wait_until("preload has done it", kPatience, [&] {
      answers = machine->exec({"cat", "/run/alice/preload.answers"}).out;
      return answers.ends_with("\n");
    });
    machine->must({"rm", "/run/alice/preload", "/run/alice/preload.answers"});
    return answers;
  }

  // Every seat that has an address.
  std::vector<std::pair<std::string, const TakenPort*>> seats() const {
    return {{"handler", &handler}, {"program", &program}, {"serve", &serve}, {"plain", &plain}};
  }

  // All but those of these pools must be there yet.
  void expect_unharmed(const std::vector<Process>& before,
                       const std::vector<std::string>& but) const {
    const std::vector<Process> now = processes();
    for (const Process& p : before) {
      const std::string pool = p.title.substr(p.title.rfind(' ') + 1);
      if (std::find(but.begin(), but.end(), pool) != but.end()) continue;
      expect(std::any_of(now.begin(), now.end(),
                         [&](const Process& q) { return q.pid == p.pid && q.title == p.title; }),
             "unharmed: " + std::to_string(p.pid) + " " + p.title);
    }
  }

  // By every seat, and at last by what preload has left, which takes orders only: what they leave answers clients.
  std::vector<std::string> all_leave(const std::vector<std::string>& how) const {
    std::vector<std::string> names{name_for_left() + "o"};
    in_preload("leave " + names[0] + " obeys");
    wait_until("the next supervisor serves", kPatience,
               [&] { return state("handler") == "running"; });
    std::vector<std::string> addresses;
    for (const auto& [pool, port] : seats()) addresses.push_back(port->address());
    addresses.push_back("unix:@" + names[0]);
    for (const std::string& address : addresses) {
      Attacker attacker(address);
      for (const std::string& one : how) {
        names.push_back(name_for_left() + std::to_string(names.size()));
        attacker.obeys("leave " + names.back() + " " + one);
        if (!is_left(names.back())) throw Failure(address + ": " + names.back() + " is not there");
      }
    }
    return names;
  }

  Json status(const std::string& pool) const {
    return Json::parse(machine->must({"preforkctl", "--json", "status", pool}));
  }
  std::string state(const std::string& pool) const { return status(pool)["state"]; }

  void expect_gone(const std::vector<std::string>& names, double seconds) const {
    wait_until("all that were left behind are gone", seconds, [&] {
      for (const std::string& name : names)
        if (is_left(name)) throw Failure(name + " is there");
      return true;
    });
  }

  void expect_steerable(double seconds) const {
    const Nanoseconds end = monotonic_now() + from_seconds(seconds);
    do {
      const Nanoseconds began = monotonic_now();
      const Outcome set =
          machine->exec({"timeout", "5", "preforkctl", "set", "bob", "shrink_after=30"});
      const double took = to_seconds(monotonic_now() - began);
      if (set.code != 0 || took > 1.5)  // with the time that it takes to get inside
        throw Failure("set bob: exit code " + std::to_string(set.code) + " after " +
                      std::to_string(took) + " s, " + set.err);
    } while (monotonic_now() < end);
    expect(Client(bob.address()).echoes("hello\n"), "bob's clients are served");
  }

  // KillMode=process: what preforkd does not end stays.
  void expect_stops() const {
    machine->must({"timeout", "20", "systemctl", "stop", "preforkd.service"});
    expect_equal("result of stop", machine->property("Result"), "success");
    expect_equal(
        "processes left in the unit",
        machine
            ->exec({"sh", "-c", "for p in $(cat $0/cgroup.procs); do ps -o user=,args= $p; done",
                    kCgroup})
            .out,
        "");
  }

  // An order whose process lives on.
  Attacker at(const TakenPort& port) const { return Attacker(port.address()); }

  TakenPort handler, program, plain, bob, serve;
  std::unique_ptr<Machine> machine;
};

void rights() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const std::string did = stage->in_preload("keep;rights");
  expect(did.find("taken of 0") == did.npos, "the attack was made: " + did);
  stage->expect_steerable(1);
  Attacker worker = stage->at(stage->handler), program = stage->at(stage->program);
  worker.obeys("rights");
  program.obeys("rights");
  stage->expect_steerable(1);
  stage->expect_stops();
}

void reach() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const std::vector<Process> all = stage->processes();
  for (const auto& [pool, port] :
       {std::pair{"handler", &stage->handler}, std::pair{"program", &stage->program},
        std::pair{"plain", &stage->plain}}) {
    Attacker attacker(port->address());
    const std::string seat = std::string("pool ") + pool;
    const std::string user = pool == std::string("plain") ? "preforkd" : kAlice;
    std::string others, disturbed, titles;
    for (const Process& p : all) {
      const bool same_user = p.user == user;
      if (same_user && p.title.starts_with("preforkd: worker")) continue;
      others += " " + std::to_string(p.pid);
      titles += "\n    " + std::to_string(p.pid) + " " + p.user + " " + p.title;
      const bool allowed = same_user && p.title.starts_with("preforkd: supervisor");
      if (!allowed) disturbed += " " + std::to_string(p.pid);
    }
    expect_contains(seat + ": what it can do where it may", attacker.obeys("reach self"), "mem");
    const std::string reached = attacker.obeys("reach" + others);
    expect(reached == "nothing", seat + " reached " + reached + " of" + titles);
    const std::string worked = attacker.obeys("disturb" + disturbed);
    expect(worked == "nothing", seat + " may disturb " + worked + " of" + titles);
  }
  stage->expect_stops();
}

void left_behind() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  std::vector<std::string> names;
  {
    Attacker worker = stage->at(stage->handler);
    for (const char* how : {"plain", "stubborn", "chain"}) {
      names.push_back(name_for_left() + how[0]);
      worker.obeys("leave " + names.back() + " " + how);
    }
  }
  names.push_back(name_for_left() + "g");
  stage->at(stage->program).obeys("leave " + names.back() + " stubborn");
  // The handler's address is bob's from now on, and the program's pool is gone.
  std::vector<PoolText> pools = stage->pools();
  pools[3].listen += ", " + stage->handler.quoted();
  stage->machine->configure(config_of({pools[2], pools[3]}));
  stage->machine->must({"systemctl", "reload", "preforkd.service"});
  size_t others = 0;
  for (int i = 0; i < 100; ++i) {
    Client client(stage->handler.address());
    client.send("hello\n");
    others += client.read_line() != "hello";
  }
  expect_equal("clients of bob's, of 100, whom he did not answer", others, 0u);
  stage->expect_gone(names, kGoneAfter);
  stage->expect_steerable(0);
  stage->expect_stops();
}

// The same where there is no time for each: at the end of all.
void left_at_stop() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const auto names = stage->all_leave({"plain", "stubborn", "chain", "deep"});
  stage->expect_stops();
  stage->expect_gone(names, 0);
}

// More, and faster, than anybody can count: others are served meanwhile, and it is over with its generation.
void swarms() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const auto names = stage->all_leave({"swarm"});
  // How fast is a matter of processors, which nobody divides; that it happens is not.
  stage->machine->must({"timeout", "10", "preforkctl", "set", "bob", "shrink_after=30"});
  expect(Client(stage->bob.address()).echoes("hello\n"), "bob's clients are served");
  stage->machine->exec(
      {"timeout", "20", "preforkctl", "recycle", "serve"});  // it may be too slow to
  stage->machine->configure(config_of({stage->pools()[3]}));
  stage->machine->must({"timeout", "20", "systemctl", "reload", "preforkd.service"});
  stage->expect_gone(names, kGoneAfter);
  stage->expect_steerable(0);
  stage->expect_stops();
}

// The next daemon knows of no such process, and has the same sockets from systemd.
void left_by_a_dead_daemon() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const auto names = stage->all_leave({"stubborn", "chain"});
  stage->machine->kill_daemon();
  stage->machine->wait_for_restart();
  std::vector<PoolText> pools = stage->pools();
  for (const auto& [pool, port] : stage->seats()) pools[3].listen += ", " + port->quoted();
  stage->machine->configure(config_of({pools[3]}));
  stage->machine->must({"systemctl", "reload", "preforkd.service"});
  for (const auto& [pool, port] : stage->seats()) {
    size_t others = 0;
    for (int i = 0; i < 25; ++i) {
      Client client(port->address());
      client.send("hello\n");
      others += client.read_line() != "hello";
    }
    expect_equal("clients of bob's, of 25, whom he did not answer where " + pool + " was", others,
                 0u);
  }
  stage->expect_steerable(0);
  stage->expect_stops();
  stage->expect_gone(names, 0);
}

// Real ones, of the two that nobody can ignore, one by one and to all at once.
void signals() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  for (const auto& seat : stage->seats()) {
    const std::string& pool = seat.first;
    const std::vector<Process> before = stage->processes();
    const pid_t own = stage->supervisor(pool);
    Attacker attacker = stage->at(*seat.second);
    for (const Process& p : before) {
      if (p.title.ends_with(" " + pool)) continue;
      for (const int number : {SIGSTOP, SIGKILL}) {
        const std::string said =
            attacker.obeys("kill " + std::to_string(p.pid) + " " + std::to_string(number));
        expect(said == std::to_string(EPERM) || said == std::to_string(ESRCH),
               pool + ": signal " + std::to_string(number) + " to " + p.title + ": " + said);
      }
    }
    attacker.begin("kill -1 9");
    wait_until(pool + " has killed all that it may, and serves", kPatience, [&] {
      const pid_t next = stage->supervisor(pool);
      return next != 0 && next != own && stage->state(pool) == "running";
    });
    stage->expect_unharmed(before, {pool});
  }
  stage->expect_steerable(0);
  stage->expect_stops();
}

// From seats that `reach` has not: a program that accepts, preload, what it left behind, and no seat at all.
void reach_from_elsewhere() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const std::string left = name_for_left() + "o";
  stage->in_preload("leave " + left + " obeys");
  wait_until("the next supervisor serves", kPatience,
             [&] { return stage->state("handler") == "running"; });
  std::string reachable = "reach", disturbed = "disturb", titles;
  for (const Process& p : stage->processes()) {
    if (p.title.find(" handler") != p.title.npos) continue;
    reachable += " " + std::to_string(p.pid);
    if (p.user != kAlice)
      disturbed += " " + std::to_string(p.pid);  // (root's pools limit their own user)
    titles += "\n    " + std::to_string(p.pid) + " " + p.user + " " + p.title;
  }
  for (const std::string& order : {reachable, disturbed}) {
    expect_equal("what preload left behind: " + order + titles,
                 Attacker("unix:@" + left).obeys(order), "nothing");
    expect_equal("a local user: " + order + titles,
                 stage->machine->must({"setpriv", "--reuid", kStranger, "--regid", kStranger,
                                       "--clear-groups", kInstalled + std::string("trust"), order}),
                 "nothing\n");
  }
  expect_contains("what it can do where it may", Attacker("unix:@" + left).obeys("reach self"),
                  "mem");
  // (From here on what the generation before has left is to end.)
  expect_equal("preload: " + titles, stage->in_preload(reachable), "nothing\n");
  // It is of the pool that it would reach, where that is allowed.
  std::string not_its_own = "reach";
  for (const Process& p : stage->processes())
    if (!p.title.ends_with(" serve")) not_its_own += " " + std::to_string(p.pid);
  expect_equal("a program that accepts: " + not_its_own + titles,
               stage->at(stage->serve).obeys(not_its_own), "nothing");
  stage->expect_stops();
}

// As the service would: NotifyAccess= is the daemon's alone.
void notifications() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  auto unit = [&] {
    return stage->machine->must({"systemctl", "show", "preforkd.service", "-p",
                                 "MainPID,ActiveState,SubState,NFileDescriptorStore,NotifyAccess,"
                                 "WatchdogUSec,NRestarts"});
  };
  const std::string before = unit();
  size_t said = 0;
  for (const auto& [pool, port] : stage->seats()) {
    Attacker attacker = stage->at(*port);
    expect_equal(pool + " knows of no $NOTIFY_SOCKET", attacker.obeys("variable NOTIFY_SOCKET"),
                 "");
    const std::string pid = attacker.obeys("pid");
    for (const std::string& state :
         {std::string("READY=1,STATUS=mine"), std::string("RELOADING=1"), std::string("STOPPING=1"),
          "MAINPID=" + pid, std::string("FDSTORE=1,FDNAME=preforkd/mine"),
          "FDSTOREREMOVE=1,FDNAME=preforkd/" + stage->bob.address(),
          std::string("WATCHDOG=trigger"), std::string("WATCHDOG_USEC=1"), std::string("ERRNO=5")})
      said += attacker.obeys("notify " + state) == "said";
  }
  expect_equal("what was said, of 36", said, 36u);
  // Each is told off by systemd, which then has read it.
  wait_until("systemd has read the last one", kPatience, [&] {
    return occurrences(stage->machine->must({"journalctl", "--no-pager", "-o", "cat", "_PID=1"}),
                       "but reception only permitted for main PID") > 0;
  });
  expect_equal("the unit", unit(), before);
  expect(stage->machine->property("StatusText").find("mine") == std::string::npos, "its status");
  // The sockets in the store are those that they were: nobody is refused by the next daemon.
  stage->machine->kill_daemon();
  expect(Client(stage->bob.address()).echoes("hello\n"), "bob's clients are served");
  stage->machine->wait_for_restart();
  stage->expect_steerable(0);
  stage->expect_stops();
}

// What a pool shares with its supervisor is full of nonsense: its own, and nobody else's.
void spoiled_memory() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const std::vector<Process> before = stage->processes();
  const std::string did = stage->at(stage->handler).obeys("spoil");
  expect(did.find("wrote 0") == did.npos, "a worker wrote: " + did);
  expect(did.ends_with("cut 0"), "a worker cut what it has: " + did);
  for (const TakenPort* port : {&stage->program, &stage->serve})
    expect_equal("a program", stage->at(*port).obeys("spoil"), "wrote 0, cut 0");
  stage->expect_steerable(1);
  const std::string of_preload = stage->in_preload("spoil");
  expect(of_preload.ends_with("cut 0\n"), "preload cut what it has: " + of_preload);
  stage->expect_steerable(1);
  expect_equal("bob's state", stage->state("bob"), "running");
  expect_contains("the figures", stage->machine->must({"preforkctl", "metrics"}), "pool=\"bob\"");
  stage->expect_unharmed(before, {"handler", "program"});
  stage->expect_stops();
}

// No memory for files: new segments are none of these.
void full_shared_memory() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  stage->machine->must({"mount", "-o", "remount,size=4m", "/dev/shm"});
  Attacker worker = stage->at(stage->handler);
  expect(worker.obeys("fill /dev/shm/full") != "0", "it has written");
  expect_equal("and there is no room", stage->at(stage->program).obeys("fill /dev/shm/more"), "0");
  stage->machine->must({"preforkctl", "recycle", "bob"});
  wait_until("the one before has left", kPatience,
             [&] { return stage->status("bob")["generations"].size() == 1; });
  stage->machine->must({"kill", "-KILL", std::to_string(stage->supervisor("bob"))});
  wait_until("bob's next supervisor serves", kPatience,
             [&] { return stage->state("bob") == "running"; });
  stage->machine->must({"systemctl", "reload", "preforkd.service"});
  stage->expect_steerable(0);
  stage->expect_stops();
}

// By all seats at once, as severe as can be, and as if others said it. In the journal nothing of it is bob's.
void floods_of_the_log() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  std::vector<Attacker> all;
  for (const auto& [pool, port] : stage->seats()) {
    all.emplace_back(port->address());
    expect_equal(pool + ", past preforkd",
                 all.back().obeys("journal PREFORKD_POOL=bob,MESSAGE=forged,"), "said");
  }
  for (Attacker& one : all) one.begin("say 2000");
  stage->expect_steerable(1.5);
  for (Attacker& one : all) expect(one.answer() != "0", "it has said something");
  stage->machine->must({"kill", "-KILL", std::to_string(stage->supervisor("bob"))});
  auto journal = [&](const std::string& field) {
    return stage->machine->must({"journalctl", "--no-pager", "-o", "cat", field});
  };
  wait_until("what happened to bob is in the log", kPatience, [&] {
    return journal("PREFORKD_POOL=bob").find("killed by signal 9") != std::string::npos;
  });
  expect_contains("alice's", journal("PREFORKD_POOL=serve"), "spoken by alice");
  // Whoever may write to the journal names what pool he likes; who wrote it nobody can forge.
  std::string log_uid;
  wait_until("there is a log process", kPatience, [&] {  // it may be replaced, under all that
    for (const Process& p : stage->processes())
      if (p.title == "preforkd: log") log_uid = p.uid;
    return !log_uid.empty();
  });
  wait_until("what was forged is in the journal", kPatience, [&] {
    return occurrences(journal("PREFORKD_POOL=bob"), "forged") == stage->seats().size();
  });
  expect_equal("forged, as the log process",
               occurrences(stage->machine->must({"journalctl", "--no-pager", "-o", "cat",
                                                 "PREFORKD_POOL=bob", "_UID=" + log_uid}),
                           "forged"),
               0u);
  expect_equal("in bob's name", occurrences(journal("PREFORKD_POOL=bob"), "spoken by alice"), 0u);
  stage->expect_stops();
}

// What can be closed only slowly, by seats that `rights` has not.
void rights_from_elsewhere() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const std::string left = name_for_left() + "o";
  stage->in_preload("keep;leave " + left + " obeys");
  Attacker of_preload("unix:@" + left), serving = stage->at(stage->serve);
  const std::string did = of_preload.obeys("rights");
  expect(did.find("taken of 0") == did.npos, "the attack was made: " + did);
  serving.obeys("rights");
  stage->expect_steerable(1);
  stage->machine->must({"timeout", "20", "preforkctl", "recycle", "handler"});
  stage->expect_gone({left}, kGoneAfter);
  stage->expect_steerable(0);
  stage->expect_stops();
}

// The unit without pool-users.conf: all is the service's user's, the daemon too, and out of reach yet.
void as_one_user() {
  if (are_sanitized()) return skip("attackers and sanitizers are in each other's way");
  if (syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) < 6)
    return skip("Linux has no scope for signals here (6.12 has)");
  auto machine = Machine::boot(true);
  if (!machine) return;
  TakenPort evil, good;
  for (TakenPort* port : {&evil, &good}) port->free();
  machine->add_program("trust");
  machine->configure(
      config_of({{.name = "evil",
                  .listen = evil.quoted(),
                  .serves = std::string("program = [ \"") + kInstalled + "trust\" ];",
                  .timeouts = "drain = 1.0;"},
                 {.name = "good", .listen = good.quoted()}}));
  machine->must({"systemctl", "start", "preforkd.service"});
  std::string others, titles;
  for (const Process& p : processes_in(*machine)) {
    if (p.title.ends_with(" evil")) continue;
    expect_equal("user of " + p.title, p.user, "preforkd");
    others += " " + std::to_string(p.pid);
    titles += "\n    " + std::to_string(p.pid) + " " + p.title;
  }
  Attacker attacker(evil.address());
  for (const char* how : {"reach", "disturb"})
    expect_equal(std::string(how) + titles, attacker.obeys(how + others), "nothing");
  expect(Client(good.address()).echoes("hello\n"), "the other pool serves");
  machine->must({"timeout", "20", "systemctl", "stop", "preforkd.service"});
}

// By its own words: who may change things is not who serves.
void orders() {
  const auto stage = UnitStage::boot();
  if (!stage) return;
  const std::vector<Process> before = stage->processes();
  for (const std::string& user :
       {std::string(kAlice), std::string("preforkd"), std::string(kStranger)})
    for (const std::string& order :
         {std::string("stop"), std::string("reload"), std::string("upgrade"),
          std::string("drain bob"), std::string("recycle bob"), std::string("set bob max=1")}) {
      const Outcome did =
          stage->machine->exec({"setpriv", "--reuid", user, "--regid", user, "--clear-groups", "sh",
                                "-c", "preforkctl " + order});
      expect_equal("exit code of " + user + "'s " + order, did.code, 1);
      expect_contains(user + "'s " + order, did.err, "changes are for root");
    }
  stage->expect_unharmed(before, {});
  stage->expect_steerable(0);
  stage->expect_stops();
}

}  // namespace

Suite trust_unit_suite() {
  return {"trust_unit",
          {{"rights", rights},
           {"rights from elsewhere", rights_from_elsewhere},
           {"reach", reach},
           {"reach from elsewhere", reach_from_elsewhere},
           {"signals", signals},
           {"orders", orders},
           {"as one user", as_one_user},
           {"notifications", notifications},
           {"spoiled memory", spoiled_memory},
           {"full /dev/shm", full_shared_memory},
           {"floods of the log", floods_of_the_log},
           {"left behind", left_behind},
           {"left behind at stop", left_at_stop},
           {"left behind by a dead daemon", left_by_a_dead_daemon},
           {"swarms", swarms}}};
}

}  // namespace preforkd::system_test
