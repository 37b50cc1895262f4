// Killed at every instruction. A worker is stepped by ptrace (tests/system/stepper.h) from one wait for
// connections to the next, through accept, serve and every write to shared memory; in run k it is killed
// at point k, for all k. After each, the books are exact, no worker is missing, and the next client is
// served. The same for a worker that is to retire, from the nudge to its exit.
//
// What the figures must be, the point itself says: nothing is counted until the worker has written that a
// connection has begun, a failed one until it has written that it is done, a served one from there on.
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <sstream>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/stepper.h"
#include "tests/system/suites.h"
#include "tests/system/waits.h"
#include "worker/signals.h"

namespace preforkd::system_test {
namespace {

// Each where there is time for it. Code that is not optimised, or looks at all it does, has too many instructions for
// a run each: then, too, every n-th is taken.
uint32_t most_runs(uint32_t points) {
  if (are_sanitized()) return 50;
  return are_thorough() && points < 3000 ? points : 150;
}
constexpr double kPromptly = 4;  // seconds, for a client after a death; the machine may be loaded

struct Books {
  uint64_t served = 0, failed = 0, aborted = 0, crashed = 0, retired = 0;
  bool operator==(const Books&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Books& b) {
  return out << b.served << " served, " << b.failed << " failed, " << b.aborted << " aborted, "
             << b.crashed << " crashed, " << b.retired << " retired";
}

Books books_of(const Json& pool) {
  return {pool["connections"]["served"], pool["connections"]["failed"],
          pool["connections"]["aborted"], pool["lifetime"]["crashed"], pool["lifetime"]["retired"]};
}

// Until the pool is at rest with one idle worker: then what it says is all there is to say.
Json at_rest(Server& server, uint64_t deaths) {
  Json pool;
  server.wait_until("the pool is at rest", kPatience, [&] {
    pool = server.pool();
    const Json& lifetime = pool["lifetime"];
    if (pool["workers"]["total"] != 1 || pool["workers"]["idle"] != 1 ||
        lifetime["crashed"].get<uint64_t>() + lifetime["retired"].get<uint64_t>() != deaths)
      throw Failure("it has " + pool["workers"].dump() + lifetime.dump());
    return true;
  });
  return pool;
}

void expect_books(const std::string& when, const Json& pool, const Books& expected) {
  expect_equal(when + ": the books", books_of(pool), expected);
  expect_equal(when + ": accepted", pool["connections"]["accepted"].get<uint64_t>(),
               expected.served + expected.failed + expected.aborted);
  expect_equal(when + ": active", pool["connections"]["active"].get<uint64_t>(), 0u);
  expect_equal(when + ": rejected", pool["connections"]["rejected"].get<uint64_t>(), 0u);
  expect_equal(when + ": state", pool["state"].get<std::string>(), "running");
}

// Which points to kill at, of so many.
class Runs {
 public:
  explicit Runs(uint32_t points)
      : points_(points), stride_(std::max(1u, points / most_runs(points))) {}
  uint32_t stride() const { return stride_; }
  ~Runs() {
    std::printf("(%u points%s) ", points_,
                stride_ > 1 ? (", every " + std::to_string(stride_) + "th").c_str() : "");
  }

 private:
  uint32_t points_, stride_;
};

// --- one connection ------------------------------------------------------------------------------

// Of a connection that is served under the stepper: how far it was, as seen from outside.
struct Progress {
  bool accepted = false, begun = false, done = false;
};

class OneConnection {
 public:
  // The worker waits for a connection, and there is one, which has said all it has to say.
  explicit OneConnection(Server& server)
      : worker_(server.worker_pids().at(0)), client_(connect(server)) {}

  // On to the next point. False: it waits again, or (which it must not) has ended.
  bool next() {
    if (!worker_.next_point()) return false;
    long result = -1;
    if (worker_.returned_from(SYS_accept4, result) && result >= 0) accepted_ = true;
    return !worker_.is_at_wait();
  }

  // How far the connection is now.
  Progress progress() {
    Progress now{accepted_, worker_.begun() > begun_before_, worker_.served() > served_before_};
    if (worker_.is_in_handler())
      expect(now.begun && !now.done, "while the handler runs the connection is in hand");
    expect(now.accepted || !now.begun, "it begins after it was accepted");
    expect(now.begun || !now.done, "it is done after it began");
    return now;
  }
  Stepper& worker() { return worker_; }
  Client& client() { return client_; }

 private:
  // Attached first, brought to its wait, and only then is somebody there to wake it.
  Client connect(Server& server) {
    if (!worker_.run_to_wait()) throw Failure("the worker ended instead of waiting");
    begun_before_ = worker_.begun(), served_before_ = worker_.served();
    Client client(server.address());
    client.send("hello\n");
    client.half_close();
    return client;
  }

  Stepper worker_;
  uint64_t begun_before_ = 0, served_before_ = 0;
  bool accepted_ = false;
  Client client_;
};

uint32_t count_points(Server& server, Books& books) {
  OneConnection run(server);
  uint32_t points = 1;
  for (; run.next(); ++points) run.progress();
  if (run.worker().has_ended()) throw Failure("the worker ended instead of waiting again");
  expect(run.progress().done, "served, when it waits again");
  expect_equal("echo", run.client().read_until_eof(), "hello\n");
  ++books.served;
  return points;
}

// Kills at point `k`; what was seen of the connection until then.
Progress kill_at(Server& server, uint32_t k, Books& books) {
  const std::string when = "killed at point " + std::to_string(k);
  OneConnection run(server);
  for (uint32_t i = 0; i < k && run.next(); ++i) {
  }
  const Progress at = run.progress();
  run.worker().kill();
  ++books.crashed;

  Nanoseconds died = monotonic_now();
  Client next(server.address());
  short_echo(next);
  const double took = to_seconds(monotonic_now() - died);
  expect(took < kPromptly, when + ": the next client waited " + std::to_string(took) + " s");
  ++books.served;
  if (!at.accepted) expect_equal(when + ": who waited", run.client().read_until_eof(), "hello\n");
  if (at.accepted) expect(run.client().is_ended(), when + ": its client sees the end");
  books.served += !at.accepted || at.done;
  books.failed += at.begun && !at.done;
  expect_books(when, at_rest(server, books.crashed), books);
  return at;
}

void killed_while_serving() {
  // With a timeout for connections the watch is armed while the supervisor sleeps: the worker takes it,
  // and rings the doorbell.
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 0; max_spare = 0;",
                          .timeouts = "connection = 600.0;"}});
  Books books;
  const uint32_t points = count_points(server, books);
  const Runs runs(points);
  uint32_t waiting = 0, accepted = 0, begun = 0, done = 0;
  for (uint32_t k = 1; k <= points; k += runs.stride()) {
    const unsigned failures = CU_get_number_of_failures();
    const Progress at = kill_at(server, k, books);
    ++(at.done ? done : at.begun ? begun : at.accepted ? accepted : waiting);
    if (CU_get_number_of_failures() != failures) break;  // the books would be wrong from here on
  }
  expect(waiting > 0 && accepted > 0 && begun > 0 && done > 0,
         "points before, between and after: " + std::to_string(waiting) + " waiting, " +
             std::to_string(accepted) + " accepted, " + std::to_string(begun) + " begun, " +
             std::to_string(done) + " done");
}

// --- retiring ------------------------------------------------------------------------------------

void set_size(Server& server, int size) {
  const std::string text = std::to_string(size);
  Answer answer = server.request("PATCH", "/v1/pools/echo/limits",
                                 R"({"min": )" + text + R"(, "max": )" + text + "}");
  if (answer.status != 200) throw Failure("PATCH: " + answer.body);
}

bool is_nudged(pid_t pid) {
  const std::string status = file_text("/proc/" + std::to_string(pid) + "/status");
  const size_t at = status.find("\nShdPnd:");
  return at != status.npos && std::stoull(status.substr(at + 8), nullptr, 16) & signal_bit(SIGUSR1);
}

bool sleeps_at_the_doorbell(pid_t pid) {
  std::istringstream call(file_text("/proc/" + std::to_string(pid) + "/syscall"));
  std::string number, word, operation;
  call >> number >> word >> operation;
  return number == std::to_string(SYS_futex) && operation == "0x9";  // FUTEX_WAIT_BITSET
}

bool waits_for_connections(pid_t pid) {
  const std::string call = file_text("/proc/" + std::to_string(pid) + "/syscall");
  return call.starts_with(std::to_string(SYS_epoll_pwait) + " ");
}

// Of two workers this one has been idle longer, and is told that it is one too many. While it is stepped its supervisor
// stands still: what looks in between the taken ticket and the bits counts the worker as staying, and lets another one go
// (see shm/tickets.h). At this pace that window is a thousand times as long.
class OneTooMany {
 public:
  explicit OneTooMany(Server& server) : pid_(server.worker_pids().at(0)) {
    const pid_t supervisor = server.supervisor();
    set_size(server, 2);
    server.wait_for("/workers/idle", 2);
    worker_.emplace(pid_);
    if (!worker_->run_to_wait()) throw Failure("the worker ended instead of waiting");
    set_size(server, 1);
    server.wait_until("the worker is nudged", kPatience, [&] { return is_nudged(pid_); });
    // (Woken in between, by its own time, it may have counted both already.)
    server.wait_until("the supervisor is held in its sleep", kPatience, [&] {
      if (!sleeps_at_the_doorbell(supervisor)) return false;
      held_.emplace(supervisor);
      if (!sleeps_at_the_doorbell(supervisor)) held_.reset();
      return held_.has_value();
    });
  }
  // On to the next point. False: it has left.
  bool next() { return worker_->next_point(); }
  bool is_retiring() { return worker_->state() == static_cast<uint32_t>(WorkerState::kRetiring); }
  Stepper& worker() { return *worker_; }
  pid_t pid() const { return pid_; }
  Held& supervisor() { return *held_; }

 private:
  const pid_t pid_;
  std::optional<Held> held_;
  std::optional<Stepper> worker_;
};

// The pool is at rest with the other worker, which serves as before.
void expect_the_other_serves(const std::string& when, Server& server, Books& books) {
  expect_books(when, at_rest(server, books.crashed + books.retired), books);
  Client next(server.address());
  short_echo(next);
  ++books.served;
  expect_books(when + ", and a client", at_rest(server, books.crashed + books.retired), books);
}

void killed_while_retiring() {
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 0; max_spare = 0;"}});
  Books books;
  uint32_t points = 1;
  {
    OneTooMany run(server);
    bool retiring = false;
    for (; run.next(); ++points) retiring |= run.is_retiring();
    expect(retiring, "it retires");
    expect_equal("exit code", exit_code(run.worker().exit_status()), 0);
  }
  ++books.retired;
  expect_the_other_serves("retired", server, books);

  const Runs runs(points);
  uint32_t before = 0, after = 0;
  for (uint32_t k = 1; k < points; k += runs.stride()) {
    const unsigned failures = CU_get_number_of_failures();
    {
      OneTooMany run(server);
      for (uint32_t i = 0; i < k && run.next(); ++i) {
      }
      ++(run.is_retiring() ? after : before);
      ++(run.worker().has_ended() ? books.retired : books.crashed);
      run.worker().kill();
    }
    expect_the_other_serves("killed at point " + std::to_string(k), server, books);
    if (CU_get_number_of_failures() != failures) break;
  }
  expect(before > 0 && after > 0, "points before and after it says that it retires: " +
                                      std::to_string(before) + ", " + std::to_string(after));
}

// The one that was told to leave dies, and the other is nudged for a client when it has one in hand: at its next wait it is
// told to leave by that as little as before.
void killed_with_a_client_waiting() {
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 0; max_spare = 0;"}});
  {
    OneTooMany run(server);
    run.worker().kill();
    const std::vector<pid_t> workers = server.worker_pids();
    const pid_t other = workers.at(0) == run.pid() ? workers.at(1) : workers.at(0);
    auto stepper = std::make_optional<Stepper>(other);
    Client first(server.address()), second(server.address());
    for (Client* client : {&first, &second}) {
      client->send("hello\n");
      client->half_close();
    }
    for (long result = -1; !stepper->returned_from(SYS_accept4, result) || result < 0;)
      if (!stepper->step()) throw Failure("it has left");
    run.supervisor().go_on_until("it is nudged", [&] { return is_nudged(other); });
    stepper.reset();
    for (Client* client : {&first, &second})
      expect_equal("echo", client->read_until_eof(), "hello\n");
    server.wait_until("it has seen the nudge", kPatience, [&] { return !is_nudged(other); });
    server.wait_until("it waits again", kPatience, [&] { return waits_for_connections(other); });
  }
  Books books{.served = 2, .crashed = 1};
  expect_the_other_serves("killed with a client waiting", server, books);
}

}  // namespace

Suite instructions_suite() {
  return {"instructions",
          {{"killed at every instruction of a connection", killed_while_serving},
           {"killed at every instruction of retiring", killed_while_retiring},
           {"killed when it is to retire, with a client waiting", killed_with_a_client_waiting}}};
}

}  // namespace preforkd::system_test
