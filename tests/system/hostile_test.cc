// A hostile worker (tests/system/handlers/hostile.cc): it scribbles over its pool's memory, at random and
// where it hurts, empties it, floods the doorbell, and sends signals to whom it may. Beside it runs the pool
// of another user, under load. What must hold, all the time: that pool serves on unharmed; no more than
// `max` workers of a generation exist; nobody is signalled who is not of the hostile pool; daemon, control
// and the other supervisor neither crash nor spin. The pool's own supervisor, which such a worker may kill,
// is replaced; and with new memory (recycle) the hostile pool itself is well again.
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "base/clock.h"
#include "shm/layout.h"
#include "supervisor/breaker.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr size_t kMax = 4;                // of the hostile pool
constexpr char kHostileUser[] = "games";  // has no other processes
constexpr char kGoodUser[] = "daemon";
constexpr double kShare = 0.5;  // of one processor: whoever takes more spins

// --- processes -----------------------------------------------------------------------------------

struct Stat {
  std::string comm;
  char state = 0;
  pid_t parent = 0, group = 0, session = 0;
  uint64_t ticks = 0;  // of processor time
};

std::optional<Stat> stat_of(pid_t pid) {
  const std::string line = file_text("/proc/" + std::to_string(pid) + "/stat");
  const size_t begin = line.find('('), end = line.rfind(')');
  if (end == line.npos) return {};
  Stat s;
  s.comm = line.substr(begin + 1, end - begin - 1);
  uint64_t user = 0, system = 0;
  if (std::sscanf(line.c_str() + end + 1, " %c %d %d %d %*s %*s %*s %*s %*s %*s %*s %lu %lu",
                  &s.state, &s.parent, &s.group, &s.session, &user, &system) != 6)
    return {};
  s.ticks = user + system;
  return s;
}

// Counts, again and again, the workers in each session of a supervisor of the pool: each generation has
// one. (A worker that is dead and not reaped counts: its supervisor holds its place.)
class Census {
 public:
  explicit Census(const std::string& pool)
      : title_(" " + pool), thread_([this](std::stop_token token) { run(token); }) {}

  // After this: the most workers that were there at once, in any session.
  size_t most() {
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
    return most_;
  }
  size_t looks() const { return looks_; }

 private:
  void run(const std::stop_token& token) {
    const timespec pause = to_timespec(kMillisecond);
    for (; !token.stop_requested(); nanosleep(&pause, nullptr)) look();
  }

  void look() {
    std::map<pid_t, std::set<pid_t>> sessions;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const pid_t pid = std::atoi(entry.path().filename().c_str());
      if (pid == 0) continue;
      auto stat = stat_of(pid);
      if (!stat || !stat->comm.starts_with("preforkd-")) continue;
      if (pid == stat->session && title_of(pid).ends_with(title_)) ours_.insert(pid);
      if (pid != stat->session) sessions[stat->session].insert(pid);
    }
    for (auto& [session, pids] : sessions) {
      if (!ours_.contains(session)) continue;
      // One look takes a while: only those who are still there were there at the same time.
      if (pids.size() > kMax) std::erase_if(pids, [](pid_t pid) { return !stat_of(pid); });
      most_ = std::max(most_.load(), pids.size());
    }
    ++looks_;
  }

  const std::string title_;
  std::set<pid_t> ours_;
  std::atomic<size_t> most_{0}, looks_{0};
  std::jthread thread_;
};

// A stranger: a process of the hostile pool's user. It blocks every signal that can be blocked, so that
// whatever is sent to it is seen.
class Bystander {
 public:
  Bystander()
      : pid_(spawn({.argv = {"sleep", "1000"}, .in_child = [] {
                      const passwd* user = getpwnam(kHostileUser);
                      if (setgroups(0, nullptr) != 0 || setgid(user->pw_gid) != 0 ||
                          setuid(user->pw_uid) != 0)
                        _exit(126);
                      sigset_t all;
                      sigfillset(&all);
                      sigprocmask(SIG_SETMASK, &all, nullptr);
                    }})) {}
  ~Bystander() {
    kill(pid_, SIGKILL);
    wait_for_child(pid_, kPatience);
  }
  pid_t pid() const { return pid_; }

  void expect_unharmed() const {
    auto stat = stat_of(pid_);
    expect(stat && stat->state == 'S', "the bystander sleeps on");
    const std::string status = file_text("/proc/" + std::to_string(pid_) + "/status");
    for (const char* key : {"SigPnd:", "ShdPnd:"}) {
      const size_t at = status.find(key);
      const std::string pending = at == status.npos ? "?" : status.substr(at + 8, 16);
      expect_equal(std::string("the bystander's ") + key, pending, "0000000000000000");
    }
  }

 private:
  const pid_t pid_;
};

// --- the stage -----------------------------------------------------------------------------------

class Stage {
 public:
  Stage()
      : server_(
            {PoolText{.name = "hostile",
                      .serves = "handler = \"@HANDLERS@/hostile.so\"; settings = "
                                "{ leave_while = \"@DIR@/leave\"; crash_while = \"@DIR@/crash\";"
                                " spend_while = \"@DIR@/spend\";"
                                " term_while = \"@DIR@/term\"; };",
                      .workers = "min = 2; max = 4; min_spare = 1; max_spare = 2;"
                                 " shrink_after = 1.0; connections = 100;",
                      .timeouts = "start = 2.0; connection = 5.0; drain = 1.0;",
                      .more = std::string("user = \"") + kHostileUser + "\";"},
             PoolText{.name = "good",
                      .workers = "min = 4; max = 8;",
                      .more = std::string("user = \"") + kGoodUser + "\";"}},
            // A SIGSEGV that is sent shall kill, and not be a report of AddressSanitizer's.
            {.in_child = [] { setenv("ASAN_OPTIONS", "handle_segv=0", 1); }}),
        address_(server_.address("hostile")),
        control_(server_.control()),
        good_supervisor_(server_.supervisor("good")),
        good_workers_(server_.worker_pids("good")),
        load_(server_.address("good"), 1, unhurried),
        census_("hostile"),
        began_(monotonic_now()) {
    for (pid_t pid : watched()) ticks_[pid] = ticks_of(pid);
  }

  Server& server() { return server_; }
  Bystander& bystander() { return bystander_; }
  pid_t good_supervisor() const { return good_supervisor_; }

  // What the hostile pool answers to one order; "" if nobody does in time, which is its own matter.
  std::string order(const std::string& text, double seconds = 2) {
    try {
      Client client(address_);
      client.send(text + "\n");
      std::string answer = client.read_line(seconds);
      expect(answer != "no segment", "the handler finds its segment");
      return answer;
    } catch (const Failure&) {
      return "";
    }
  }
  // The same, and somebody must.
  std::string order_for_sure(const std::string& text) {
    std::string answer;
    server_.wait_until("the hostile pool obeys \"" + text + "\"", kPatience * 2, [&] {
      answer = order(text);
      return !answer.empty();
    });
    return answer;
  }

  // Everything that control can be asked of a pool, it answers.
  void ask_everything() {
    for (const char* path : {"/v1/status", "/v1/pools/hostile", "/v1/pools/hostile/workers",
                             "/v1/pools/hostile/decisions", "/metrics"})
      expect_equal(std::string("GET ") + path, server_.request("GET", path).status, 200);
  }

  // Nobody but the hostile pool has noticed.
  void expect_others_unharmed(const std::string& after) {
    expect_equal(after + ": control", server_.control(), control_);
    expect_equal(after + ": the good pool's supervisor", server_.supervisor("good"),
                 good_supervisor_);
    for (pid_t pid : good_workers_)
      expect(is_running(pid), after + ": a worker of the good pool is there");
    bystander_.expect_unharmed();
    const double elapsed = to_seconds(monotonic_now() - began_);
    for (pid_t pid : watched()) {
      const double spent = static_cast<double>(ticks_of(pid) - ticks_[pid]) /
                           static_cast<double>(sysconf(_SC_CLK_TCK));
      expect(spent < kShare * elapsed + 0.5, after + ": " + title_of(pid) + " took " +
                                                 std::to_string(spent) + " s in " +
                                                 std::to_string(elapsed) + " s");
    }
  }

  // New memory and new workers for the hostile pool, and all is well.
  void expect_recovery() {
    server_.wait_until("the hostile pool is renewed", kPatience * 2, [&] {
      Answer answer = server_.request("POST", "/v1/pools/hostile/recycle");
      if (answer.status != 200) throw Failure(answer.body);
      return true;
    });
    server_.wait_for("/state", "running", "hostile");
    server_.wait_until("it serves", kPatience, [&] { return !order("p").empty(); });
    server_.wait_for("/workers/busy", 0, "hostile");
    server_.wait_until("its workers can be counted", kPatience, [&] {
      Json workers = server_.pool("hostile")["workers"];
      size_t running = 0;
      for (pid_t pid : server_.worker_pids("hostile")) running += is_running(pid);
      if (running != workers["total"]) throw Failure(std::to_string(running) + workers.dump());
      return workers["total"] <= kMax && workers["idle"] >= 1;
    });
    load_.stop();
    expect_equal("what the good pool's clients met", load_.error(), "");
    expect(load_.done() > 20, "clients of the good pool: " + std::to_string(load_.done()));
    server_.wait_for("/connections/served", load_.done(), "good");
    const Json good = server_.pool("good");
    expect_equal("failed", good["connections"]["failed"].get<int>(), 0);
    expect_equal("crashed", good["lifetime"]["crashed"].get<int>(), 0);
    const size_t most = census_.most();
    expect(most >= 2 && most <= kMax, "most workers of a generation: " + std::to_string(most));
    expect(census_.looks() > 10, "looks: " + std::to_string(census_.looks()));
  }

 private:
  // About a hundred in a second, so that the machine is left to the attack.
  static void unhurried(Client& client) {
    short_echo(client);
    const timespec pause = to_timespec(10 * kMillisecond);
    nanosleep(&pause, nullptr);
  }
  std::vector<pid_t> watched() { return {server_.pid(), control_, good_supervisor_}; }
  static uint64_t ticks_of(pid_t pid) {
    auto stat = stat_of(pid);
    return stat ? stat->ticks : 0;
  }

  Bystander bystander_;
  Server server_;
  const std::string address_;
  const pid_t control_, good_supervisor_;
  const std::vector<pid_t> good_workers_;
  Load load_;
  Census census_;
  const Nanoseconds began_;
  std::map<pid_t, uint64_t> ticks_;
};

bool can_attack() {
  if (!is_root()) skip("only root can run pools as other users");
  const bool users = getpwnam(kHostileUser) && getpwnam(kGoodUser);
  if (is_root() && !users) skip("there are no users games and daemon");
  return is_root() && users;
}

// --- the attacks ---------------------------------------------------------------------------------

void random_bytes() {
  if (!can_attack()) return;
  Stage stage;
  // A build with sanitizers is one for debugging, too: its supervisor aborts when it finds two writers of a slot,
  // and random bytes are as good as a second one. It is started again later each time.
  const int seeds = are_sanitized() ? 8 : 40;
  // The header last: without it control reads nothing of the rest.
  const int with_header = seeds * 3 / 4;
  bool nonsense = false;
  for (int seed = 1; seed <= seeds; ++seed) {
    const unsigned failures = CU_get_number_of_failures();
    stage.order_for_sure("r " + std::to_string(seed) + " 4 " +
                         std::to_string(seed <= with_header ? sizeof(shm::Header) : 0));
    stage.ask_everything();
    nonsense |=
        stage.server().pool("hostile")["connections"]["accepted"].get<uint64_t>() > 1'000'000'000;
    if (CU_get_number_of_failures() != failures)
      throw Failure("after random bytes of seed " + std::to_string(seed));
  }
  expect(nonsense, "the hostile pool's figures are nonsense: its memory was written");
  stage.expect_others_unharmed("random bytes");
  stage.expect_recovery();
}

struct Field {
  const char* name;
  size_t offset, size;
};

std::vector<Field> fields() {
  using namespace shm;
  constexpr uint32_t kCapacity = kMinCapacity;
  std::vector<Field> all = {{"ring", offsetof(Segment, doorbell.ring), 4},
                            {"sleeping", offsetof(Segment, doorbell.sleeping), 4},
                            {"low_water", offsetof(Segment, published.low_water), 4},
                            {"scan_words", offsetof(Segment, published.scan_words), 4},
                            {"ring_on", offsetof(Segment, published.ring_on), 4},
                            {"leaving", offsetof(Segment, published.leaving), 4},
                            {"accept_until", offsetof(Segment, published.accept_until), 8},
                            {"accept_from", offsetof(Segment, published.accept_from), 8},
                            {"peak_busy", offsetof(Segment, shared.peak_busy), 4},
                            {"watch", offsetof(Segment, shared.watch), 4},
                            {"tick", offsetof(Segment, shared.tick), 4},
                            {"refused", offsetof(Segment, shared.refused), 4},
                            {"edition", offsetof(Segment, gone.edition), 8},
                            {"queued", offsetof(Segment, gone.queued), 8}};
  for (size_t at = 0; at < sizeof(sem_t); at += 8) {
    all.push_back({"start tickets", offsetof(Segment, tickets.start) + at, 8});
    all.push_back({"retire tickets", offsetof(Segment, tickets.retire) + at, 8});
  }
  for (size_t copy : {0, 1})
    for (size_t at :
         {offsetof(Totals, served), offsetof(Totals, failed), offsetof(Totals, forked),
          offsetof(Totals, busy_ns), offsetof(Totals, worker_ns), offsetof(Totals, at_max_since),
          offsetof(Totals, max_us), offsetof(Totals, histogram)})
      all.push_back({"totals", offsetof(Segment, gone.totals) + copy * sizeof(Totals) + at, 8});
  for (size_t word : {0, 15})
    for (size_t half : {offsetof(Bits, idle), offsetof(Bits, busy)})
      all.push_back({"bits", bits_offset() + word * sizeof(Bits) + half, 8});
  for (size_t slot : {0, 1, 2, 3, 4, 1023}) {
    const size_t base = slots_offset(kCapacity) + slot * sizeof(Slot);
    for (auto [name, offset, size] :
         std::initializer_list<Field>{{"slot pid", offsetof(Slot, pid), 4},
                                      {"slot generation", offsetof(Slot, generation), 4},
                                      {"slot forked_at", offsetof(Slot, forked_at), 8},
                                      {"slot end", offsetof(Slot, end), 8},
                                      {"slot leave", offsetof(Slot, leave), 4},
                                      {"slot state", offsetof(Slot, state), 4},
                                      {"slot starting_step", offsetof(Slot, starting_step), 4},
                                      {"slot since", offsetof(Slot, since), 8},
                                      {"slot served", offsetof(Slot, served), 8},
                                      {"slot failed", offsetof(Slot, failed), 8},
                                      {"slot begun", offsetof(Slot, begun), 8},
                                      {"slot busy_ns", offsetof(Slot, busy_ns), 8},
                                      {"slot max_us", offsetof(Slot, max_us), 8},
                                      {"slot peer", offsetof(Slot, peer), 8},
                                      {"slot recycle", offsetof(Slot, recycle), 4},
                                      {"slot histogram", offsetof(Slot, histogram), 4}})
      all.push_back({name, base + offset, size});
  }
  for (size_t at = 0; at < sizeof(Decision); at += 8)
    all.push_back({"decision", decisions_offset(kCapacity) + at, 8});
  // Last: without these control reads nothing of the rest.
  all.insert(all.end(), {{"magic", offsetof(Segment, header.magic), 8},
                         {"version", offsetof(Segment, header.version), 4},
                         {"generation", offsetof(Segment, header.generation), 4},
                         {"size", offsetof(Segment, header.size), 8},
                         {"capacity", offsetof(Segment, header.capacity), 4},
                         {"supervisor", offsetof(Segment, header.supervisor), 4},
                         {"created", offsetof(Segment, header.created), 8}});
  return all;
}

void chosen_values() {
  if (!can_attack()) return;
  Stage stage;
  const std::vector<uint64_t> values = {0,
                                        1,
                                        2,
                                        3,
                                        static_cast<uint64_t>(stage.bystander().pid()),
                                        0x7fffffff,
                                        0x80000000'80000000,
                                        ~uint64_t{0}};
  int obeyed = 0, in_vain = 0;
  for (const Field& field : fields()) {
    const unsigned failures = CU_get_number_of_failures();
    char text[80];
    for (uint64_t value : values) {
      std::snprintf(text, sizeof text, "w %zu %zu %lx", field.offset, field.size, value);
      const bool done = !stage.order(text).empty();
      obeyed += done;
      in_vain = done ? 0 : in_vain + 1;
      if (in_vain == 20) throw Failure(std::string("nobody obeys after ") + field.name);
    }
    stage.ask_everything();
    if (CU_get_number_of_failures() != failures) throw Failure(std::string("after ") + field.name);
  }
  expect(obeyed > 500, "values written: " + std::to_string(obeyed));
  stage.expect_others_unharmed("chosen values");
  stage.expect_recovery();
}

// Nobody who serves can be put on trial again, and nobody is left waiting for a verdict.
void put_on_trial() {
  if (!can_attack()) return;
  Stage stage;
  const auto serves_at_once = [&](size_t count) {
    std::list<Client> clients;
    while (clients.size() < count) clients.emplace_back(stage.server().address("hostile"));
    for (Client& client : clients) client.send("p\n");
    for (Client& client : clients) client.read_line(kPatience);
  };
  serves_at_once(kMax);  // so that each has seen that it may accept
  stage.server().wait_for("/workers/busy", 0, "hostile");

  Client attacker(stage.server().address("hostile"));
  char text[80];
  std::snprintf(text, sizeof text, "h %zu %x 4000\n", offsetof(shm::Segment, published.leaving),
                shm::kOnTrial);
  attacker.send(text);
  for (int i = 0; i < 10; ++i) stage.order_for_sure("p");
  expect(!attacker.has_answer(), "others are served while the mark is held there");
  expect_equal("it held on", attacker.read_line(kPatience), "done");
  serves_at_once(kMax);
  stage.expect_others_unharmed("a trial");
  stage.expect_recovery();
}

void memory_taken_away() {
  if (!can_attack()) return;
  Stage stage;
  std::string pids;
  for (pid_t pid : stage.server().all_pids()) pids += " " + std::to_string(pid);
  expect_equal("segments truncated", stage.order_for_sure("t" + pids), "0");
  stage.order_for_sure("e");
  stage.ask_everything();
  stage.expect_others_unharmed("truncation");
  stage.expect_recovery();
}

void floods() {
  if (!can_attack()) return;
  Stage stage;
  const pid_t supervisor = stage.server().supervisor("hostile");
  const uint64_t before = stat_of(supervisor)->ticks;
  const Nanoseconds began = monotonic_now();
  stage.order("f 2000", 10);
  const double elapsed = to_seconds(monotonic_now() - began);
  expect(elapsed > 1.9, "it floods for so long");
  auto after = stat_of(supervisor);
  if (expect(after.has_value(), "its own supervisor lives")) {
    const double spent =
        static_cast<double>(after->ticks - before) / static_cast<double>(sysconf(_SC_CLK_TCK));
    expect(spent < kShare * elapsed, "its own supervisor took " + std::to_string(spent) + " s");
  }
  stage.ask_everything();
  stage.expect_others_unharmed("floods");
  stage.expect_recovery();
}

void signals() {
  if (!can_attack()) return;
  Stage stage;
  Server& server = stage.server();
  auto send = [&](pid_t pid, int number) {
    return stage.order_for_sure("k " + std::to_string(pid) + " " + std::to_string(number));
  };
  for (pid_t other :
       {server.pid(), server.control(), stage.good_supervisor(), server.worker_pids("good").at(0)})
    expect_equal("to others", send(other, SIGKILL), std::to_string(EPERM));
  for (int number : {SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGCHLD, SIGIO, SIGURG}) {
    const pid_t supervisor = server.supervisor("hostile");
    expect_equal("to its own supervisor", send(supervisor, number), "0");
    stage.order_for_sure("p");
    expect_equal("the supervisor that had signal " + std::to_string(number),
                 server.supervisor("hostile"), supervisor);
  }
  for (int number : {SIGKILL, SIGSEGV, SIGTERM, SIGSTOP}) {
    const pid_t supervisor = server.supervisor("hostile");
    send(supervisor, number);
    server.wait_until("another supervisor is there after signal " + std::to_string(number),
                      kPatience, [&] { return server.supervisor("hostile") != supervisor; });
    server.wait_for("/state", "running", "hostile");
  }
  stage.expect_others_unharmed("signals");
  stage.expect_recovery();
}

// Of a sibling, and of its supervisor: each stop is news for whoever reaps it.
void stops_without_end() {
  if (!can_attack()) return;
  Stage stage;
  Client sibling(stage.server().address("hostile"));
  sibling.send("p\n");
  const pid_t pid = std::stoi(sibling.read_line());
  stage.order("c " + std::to_string(pid) + " 2000", 10);
  stage.order("c " + std::to_string(stage.server().supervisor("hostile")) + " 2000", 10);
  sibling.close();
  stage.ask_everything();
  stage.expect_others_unharmed("stops");
  expect(occurrences(stage.server().log(), "\n") < 100, "the log is not flooded");
  stage.expect_recovery();
}

// Each worker that a client meets leaves as if it were surplus; and then each as soon as it is there, with
// nobody to serve; and then each crashes then, and then leaves, having written that it served.
void workers_that_leave() {
  if (!can_attack()) return;
  Stage stage;
  Server& server = stage.server();
  for (int i = 0; i < 50; ++i) stage.order("q");
  auto forked = [&] { return server.pool("hostile")["lifetime"]["forked"].get<uint64_t>(); };
  auto wait_for_forks = [&](uint64_t more) {
    const uint64_t before = forked();
    for (uint64_t n = 0; n < more;) {  // 500 at a time: how long they all take, other load decides
      n = std::min(n + 500, more);
      server.wait_until(std::to_string(n) + " more workers were forked", 2 * kPatience,
                        [&] { return forked() >= before + n; });
    }
  };
  const std::string leave = server.folder().write("leave", "");
  stage.order("q");
  wait_for_forks(50);
  unlink(leave.c_str());

  // However fast the machine is: some at once, and each of the others when one is made good.
  auto expect_bounded = [&](const char* lie, uint64_t at_once, Nanoseconds each) {
    const Nanoseconds began = monotonic_now();
    const uint64_t before = forked();
    const std::string path = server.folder().write(lie, "");
    stage.order("q");
    wait_for_forks(at_once + 500);
    const uint64_t more = forked() - before;
    expect(more <= at_once + 4 * kMax + (monotonic_now() - began) / each,
           std::string(lie) + ": not faster than they are made good: " + std::to_string(more));
    unlink(path.c_str());
  };
  const uint64_t credit = Breaker::credit(kMax);
  expect_bounded("crash", credit, Breaker::kPerUsed);
  // (That takes thousands. With sanitizers in them, workers are not forked as fast as that.)
  if (are_thorough() && !are_sanitized())
    expect_bounded("spend", credit * (Breaker::kPerUsed / Breaker::kPerLeft), Breaker::kPerLeft);
  stage.ask_everything();
  stage.expect_others_unharmed("leaving");
  stage.expect_recovery();
}

// By a copy of its supervisor's channel: nobody but the supervisor is believed.
void speaks_for_its_supervisor() {
  if (!can_attack()) return;
  Stage stage;
  Server& server = stage.server();
  for (int i = 0; i < 5; ++i) {
    const pid_t supervisor = server.supervisor("hostile");
    stage.order_for_sure("s");
    server.wait_until("another supervisor is there", kPatience,
                      [&] { return server.supervisor("hostile") != supervisor; });
    server.wait_for("/state", "running", "hostile");
  }
  expect_contains("the log", server.log(), "it speaks for supervisor");
  stage.expect_others_unharmed("false reports");
  stage.expect_recovery();
}

// Each as soon as it is there: the daemon takes its time with the next one.
void workers_that_end_their_supervisor() {
  if (!can_attack()) return;
  Stage stage;
  Server& server = stage.server();
  const std::string term = server.folder().write("term", "");
  const Nanoseconds began = monotonic_now();
  kill(server.supervisor("hostile"), SIGTERM);
  auto generation = [&] { return server.pool("hostile")["generation"].get<uint64_t>(); };
  server.wait_until("several supervisors are ended", kPatience, [&] { return generation() >= 6; });
  const double elapsed = to_seconds(monotonic_now() - began);
  expect(static_cast<double>(generation()) < 4 + elapsed * 15,
         "generations in " + std::to_string(elapsed) + " s: " + std::to_string(generation()));
  unlink(term.c_str());
  stage.ask_everything();
  stage.expect_others_unharmed("supervisors that are told to leave");
  stage.expect_recovery();
}

}  // namespace

Suite hostile_suite() {
  return {"hostile",
          {{"random bytes", random_bytes},
           {"chosen values", chosen_values},
           {"put on trial", put_on_trial},
           {"memory taken away", memory_taken_away},
           {"floods", floods},
           {"signals", signals},
           {"stops without end", stops_without_end},
           {"workers that leave", workers_that_leave},
           {"speaks for its supervisor", speaks_for_its_supervisor},
           {"workers that end their supervisor", workers_that_end_their_supervisor}}};
}

}  // namespace preforkd::system_test
