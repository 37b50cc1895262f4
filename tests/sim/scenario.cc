#include "tests/sim/scenario.h"

#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/log.h"
#include "daemon/children.h"
#include "daemon/pool_set.h"
#include "shm/reader.h"
#include "tests/sim/parts.h"

namespace preforkd::sim {
namespace {

// What must not last, lasts no longer than this:
// one waits while another is idle: a wake-up that was lost with a worker is made good at its death, or a tenth of a second later;
constexpr Nanoseconds kWaitsBesideIdle = 150 * kMillisecond;
// more wait than have a worker to come: the supervisor is woken at once, and forks at once;
constexpr Nanoseconds kNotGrown = 150 * kMillisecond;
// fewer workers than `min`: the same;
constexpr Nanoseconds kBelowMin = 150 * kMillisecond;
// nobody to serve: until another supervisor has begun.
constexpr Nanoseconds kNobody = 1 * kSecond;
// And a deadline is kept within this: TERM, KILL, and a look.
constexpr Nanoseconds kTermToKill = 1 * kSecond, kLate = 300 * kMillisecond;

// How long something has held that must not last.
class Lasting {
 public:
  Lasting(const char* what, Nanoseconds most) : what_(what), most_(most) {}

  void set(bool holds, Nanoseconds now) {
    if (!holds)
      since_ = kNever;
    else if (since_ == kNever)
      since_ = now;
  }
  bool is_too_long(Nanoseconds now, Nanoseconds excused_until) const {
    return since_ != kNever && now > std::max(since_, excused_until) + most_;
  }
  const char* what() const { return what_; }

 private:
  const char* what_;
  Nanoseconds most_;
  Nanoseconds since_ = kNever;
};

// What is known of a generation by who sees everything.
struct Seen {
  uint32_t live = 0, unready = 0;  // workers; those that are not through their start
  uint32_t max_allowed = 0;
  uint64_t forks = 0, deaths = 0, accepted = 0, begun = 0, answered = 0;
  uint64_t served_before = 0;  // by its figures, when they were read last
  bool was_disturbed = false;  // somebody has killed one of its processes
  bool is_read = false;        // its figures, for the last time
};

class Scenario final : Observer, HandlerObserver, PoolOwner {
 public:
  Scenario(uint64_t seed, double minutes)
      : kernel_(seed, {memory_of_supervisor(), memory_of_intake()}),
        random_(seed ^ 0x5eed),
        ends_at_(kernel_.now() + from_seconds(minutes * 60)) {}

  Outcome play() {
    kernel_.observe(this);
    handler_observer = this;
    Process& daemon = kernel_.spawn(nullptr, Kind::kDaemon, [this] { be_daemon(); });
    daemon.is_subreaper = true;
    daemon.blocked = uint64_t{1} << (SIGCHLD - 1);
    daemon_ = &daemon;
    const Nanoseconds began = kernel_.now();
    kernel_.run([this] { return is_over_ || !violation_.empty(); });
    if (violation_.empty() && !is_over_) violate("nothing is left to happen");
    tally_.minutes = to_seconds(kernel_.now() - began) / 60;
    return {violation_, tally_};
  }

 private:
  // --- the daemon ---
  void be_daemon();
  PoolPlan plan_of(const PoolSettings& settings);
  PoolSettings some_settings();
  Limits some_limits();
  Behaviour some_behaviour();
  Behaviour some_bad_behaviour();
  void order_something();
  void reload(bool is_bad, bool recycles);
  void on_verdict(const std::string& reason, bool is_bad, bool recycles);
  void set_some_limits();
  void drain_and_resume();
  void finish();
  void look_whether_over();
  void on_pool_changed(const std::string&) override;
  std::optional<std::vector<pid_t>> unclaimed_children() override { return children_->unclaimed(); }
  void read_figures(const Generation& generation, bool is_last);

  // --- clients ---
  void next_client();
  void arrive();

  // --- accidents ---
  void next_accident();
  void meet_with_accident();
  void kill_worker(Process& worker);
  void kill_supervisor();
  void stop_worker(Process& worker);
  void begin_bad_starts();
  void begin_failing_forks();
  void begin_quiet();
  void end_quiet();
  std::vector<Process*> workers();

  // --- what is seen ---
  void on_fork(Process& worker) override;
  void on_death(Process& process) override;
  void on_accept(Process& worker) override;
  void on_epoll_wait(Process& process, bool begins) override;
  void on_close(Connection& connection) override;
  void on_serve(Connection& connection, Process& worker) override;
  void on_answer(Connection& connection) override;
  void on_started(Process& worker) override;
  void is_ready(Process& worker);
  void judge_leaving(const Process& worker, uint32_t left);
  void judge_ended_early(const Connection& connection, const Process* worker);
  World* in_charge();
  void note_told_to_leave();
  bool is_serving() const { return pool_ && pool_->is_serving() && !is_finishing_; }
  void look();
  void watch();
  void violate(const std::string& what);
  void say(const std::string& what) { log_debug("-- " + what); }
  Seen& seen(const World& world) { return seen_[world.generation]; }

  Kernel kernel_;
  Random random_;  // of its own: what it draws does not depend on the course of things
  const Nanoseconds ends_at_;
  Process* daemon_ = nullptr;
  EventLoop* loop_ = nullptr;
  Paths paths_;
  LogLink* log_ = nullptr;
  Children* children_ = nullptr;
  Pool* pool_ = nullptr;
  PoolSettings settings_;
  Listeners listeners_;
  bool is_reloading_ = false, is_finishing_ = false, is_over_ = false, is_quiet_ = false;
  bool was_drained_ = false;  // when it was told to end
  Nanoseconds finished_at_ = kNever, is_to_be_over_at_ = kNever;
  Nanoseconds supervisor_killed_at_ = 0, limits_set_at_ = 0, died_at_ = 0;
  Nanoseconds mean_gap_ = 80 * kMillisecond;
  Nanoseconds service_ = 20 * kMillisecond;
  // What would be a fault is none until then, and in the first case for what has a reason of its own then.
  Nanoseconds unable_until_ = 0, starting_until_ = 0;
  bool is_bad_now_ = false;

  std::map<uint32_t, Seen> seen_;
  std::set<const Process*> idle_, unready_;
  uint64_t next_connection_ = 1;
  uint32_t waiting_ = 0;
  Lasting beside_idle_{"a client waits though a worker is idle", kWaitsBesideIdle};
  Lasting not_grown_{"more wait than have a worker to come, below max", kNotGrown};
  Lasting below_min_{"there are fewer workers than min", kBelowMin};
  Lasting nobody_{"there is no worker", kNobody};
  std::string violation_;
  Tally tally_;
};

// --- the daemon ----------------------------------------------------------------------------------

void Scenario::be_daemon() {
  EventLoop loop;
  PoolSet pools(loop, *this, paths_);
  Children children(loop, pools, [] {});
  children.add({.owns =
                    [&pools](pid_t pid) {
                      return pools.any(
                          [pid](const Pool& pool) { return pool.owns(pid, getsid(pid)); });
                    },
                .child_changed =
                    [&pools](pid_t pid, int status) {
                      return pools.any([&](Pool& pool) { return pool.child_changed(pid, status); });
                    }});
  LogLink log(loop, nullptr, {});
  auto held = std::make_shared<HeldFile>("/proc/self/exe");
  paths_.supervisor = paths_.static_supervisor = paths_.library = held;
  loop_ = &loop;
  children_ = &children;
  log_ = &log;
  auto& signals = kernel_.open(std::make_unique<SignalFile>(), daemon_->pid);
  signals.process = daemon_;
  loop.watch(signals.fd, EPOLLIN, [this](uint32_t) {
    daemon_->pending = 0;
    children_->reap();
  });
  for (uint64_t i = random_.between(1, 2); i > 0; --i) listeners_.push_back(make_listener());
  settings_ = some_settings();
  settings_.handler = add_handler(some_behaviour());
  pool_ = &pools.add(plan_of(settings_), LogLevel::kInfo);
  starting_until_ = kernel_.now() + 500 * kMillisecond;
  pool_->start();
  kernel_.after(kSecond, [this] { next_client(); });
  kernel_.after(3 * kSecond, [this] { next_accident(); });
  kernel_.after(kSecond, [this] { watch(); });
  loop.run_after(2 * kSecond, [this] { order_something(); });
  loop.run();
  is_over_ = true;
  pool_ = nullptr;
}

PoolPlan Scenario::plan_of(const PoolSettings& settings) {
  PoolPlan plan;
  plan.settings = settings;
  plan.user = {0, 0, "root", false};
  plan.listeners = listeners_;
  plan.log = log_;
  return plan;
}

Limits Scenario::some_limits() {
  Limits limits;
  limits.max = static_cast<uint32_t>(random_.between(2, 24));
  limits.min =
      random_.one_in(4) ? 0 : static_cast<uint32_t>(random_.between(1, std::min(8u, limits.max)));
  limits.min_spare =
      random_.one_in(4) ? 0 : static_cast<uint32_t>(random_.between(1, std::min(4u, limits.max)));
  limits.max_spare = limits.min_spare + static_cast<uint32_t>(random_.between(0, 4));
  limits.shrink_after = random_.between(500, 1500) * kMillisecond;
  return limits;
}

PoolSettings Scenario::some_settings() {
  PoolSettings s;
  s.name = "sim";
  s.listen = {"127.0.0.1:7001"};
  s.limits = some_limits();
  s.starting = static_cast<uint32_t>(random_.between(2, 16));
  if (random_.one_in(3)) s.connections = static_cast<uint32_t>(random_.between(1, 300));
  if (random_.one_in(3)) s.max_age = random_.between(3, 60) * kSecond;
  s.start_timeout = random_.between(2, 5) * kSecond;
  if (random_.one_in(2)) s.slow_timeout = random_.between(300, 2000) * kMillisecond;
  if (!random_.one_in(4)) s.connection_timeout = random_.between(2500, 5000) * kMillisecond;
  s.drain_timeout = random_.between(3, 6) * kSecond;
  return s;
}

Behaviour Scenario::some_behaviour() {
  Behaviour b;
  b.has_start = !random_.one_in(3);
  b.preload_time = random_.around(20 * kMillisecond);
  b.start_time = b.has_start ? random_.between(0, 40) * kMillisecond : 0;
  b.stop_time = random_.one_in(2) ? 0 : random_.between(0, 20) * kMillisecond;
  return b;
}

Behaviour Scenario::some_bad_behaviour() {
  Behaviour b = some_behaviour();
  b.has_start = true;
  switch (random_.between(0, 4)) {
    case 0:
      b.preload_fails = true;
      break;
    case 1:
      b.start_fails = true;
      break;
    case 2:
      b.start_hangs = true;
      break;
    case 3:
      b.start_crashes = true;
      break;
    default:
      b.crashes_when_idle = true;
      break;
  }
  return b;
}

void Scenario::order_something() {
  if (is_finishing_) return;
  if (kernel_.now() >= ends_at_) return finish();
  loop_->run_after(random_.around(4 * kSecond), [this] { order_something(); });
  if (is_reloading_ || is_quiet_ || pool_->state() != PoolState::kRunning) return;
  const uint64_t what = random_.between(0, 99);
  if (what < 25)
    reload(false, false);
  else if (what < 37)
    reload(true, false);
  else if (what < 50)
    reload(false, true);
  else if (what < 85)
    set_some_limits();
  else if (what < 90)
    drain_and_resume();
}

// As daemon/reload.h has it, for one pool.
void Scenario::reload(bool is_bad, bool recycles) {
  is_reloading_ = true;
  pool_->count_workers([this, is_bad, recycles] {
    loop_->run_after(0, [this, is_bad, recycles] {
      if (is_finishing_) return;
      if (!recycles) {
        settings_ = some_settings();
        settings_.handler = add_handler(is_bad ? some_bad_behaviour() : some_behaviour());
      }
      const std::string tried = recycles ? pool_->settings().handler : settings_.handler;
      say(std::string(recycles ? "recycled" : "reloaded") +
          (is_bad ? ", with a bad handler, " + tried : ""));
      pool_->try_out(
          plan_of(recycles ? pool_->settings() : settings_),
          recycles ? pool_->limits() : settings_.limits, recycles,
          [this, is_bad, recycles, tried](const std::string& reason, const std::string&) {
            if (is_bad) handler_named(tried) = Behaviour{};
            on_verdict(reason, is_bad, recycles);
          });
      // (What is launched for another reason meanwhile is of the plan before.)
    });
  });
}

void Scenario::on_verdict(const std::string& reason, bool is_bad, bool recycles) {
  if (is_finishing_ || !pool_->trial()) return;
  is_reloading_ = false;
  const Generation& tried = pool_->trial()->generation();
  const Seen& s = seen_[tried.number()];
  const auto world = worlds().find(tried.supervisor());
  const bool has_to_show = world != worlds().end() && world->second->first_workers > 0;
  if (reason.empty() && is_bad && has_to_show && !s.was_disturbed)
    violate("a generation whose workers cannot serve has passed its trial");
  const bool has_cause = is_bad || s.was_disturbed || kernel_.now() < unable_until_;
  if (!reason.empty() && !has_cause) violate("a good generation has failed its trial: " + reason);
  if (!reason.empty()) {
    ++tally_.refused;
    return pool_->abandon();
  }
  ++tally_.reloads;
  note_told_to_leave();
  if (world != worlds().end()) world->second->is_on_trial = false;
  pool_->forget_listeners();
  pool_->promote({}, recycles);
  pool_->watch_listeners();
}

void Scenario::set_some_limits() {
  ++tally_.orders;
  limits_set_at_ = kernel_.now();
  const Limits limits = some_limits();
  say("limits: min " + std::to_string(limits.min) + ", max " + std::to_string(limits.max) +
      ", spare " + std::to_string(limits.min_spare) + " to " + std::to_string(limits.max_spare));
  const uint32_t newest = pool_->generation();
  for (auto& [number, s] : seen_) s.max_allowed = std::max(s.max_allowed, limits.max);
  pool_->set_limits(limits, limits, 0, [this, newest, limits] {
    if (pool_->limits() == limits) seen_[newest].max_allowed = limits.max;
  });
}

void Scenario::drain_and_resume() {
  ++tally_.orders;
  if (!pool_->drain().empty()) return;
  note_told_to_leave();
  say("drained");
  loop_->run_after(random_.between(1, 3) * kSecond, [this] {
    if (is_finishing_) return;
    starting_until_ = kernel_.now() + 500 * kMillisecond;
    pool_->resume();
  });
}

void Scenario::finish() {
  was_drained_ = !pool_->is_serving();
  is_finishing_ = true;
  finished_at_ = kernel_.now();
  note_told_to_leave();
  pool_->finish();
  is_to_be_over_at_ = kernel_.now() + pool_->settings().drain_timeout + 8 * kSecond;
  look_whether_over();
}

void Scenario::look_whether_over() {
  if (pool_->is_over()) {
    if (waiting_ > 0) violate("clients still wait, and the pool is over");
    return loop_->stop();
  }
  if (kernel_.now() > is_to_be_over_at_) return violate("the pool was told to end, and does not");
  loop_->run_after(20 * kMillisecond, [this] { look_whether_over(); });
}

// Control, which reads the figures of a generation that is over.
void Scenario::on_pool_changed(const std::string&) {
  if (!pool_) return;
  for (const Generation* g : pool_->all_generations()) {
    if (g->state() != Generation::State::kOver || seen_[g->number()].is_read) continue;
    Seen& s = seen_[g->number()];
    s.is_read = true;
    read_figures(*g, true);
    loop_->run_after(0, [this, number = g->number(), supervisor = g->supervisor()] {
      pool_->close_generation(number, "");
      forget_world(supervisor);
    });
  }
}

void Scenario::read_figures(const Generation& generation, bool is_last) {
  Seen& s = seen_[generation.number()];
  const shm::SegmentReader reader(UniqueFd(dup(generation.segment())));
  const auto snapshot = reader.read(kernel_.now());
  if (!snapshot) return is_last && s.forks > 0 ? violate("the figures cannot be read") : void();
  const shm::Counters& f = snapshot->figures;
  const uint64_t ended = f.served + f.failed + f.aborted;
  auto expect = [&](bool holds, const char* what, uint64_t is, uint64_t expected) {
    if (!holds)
      violate("figures of generation " + std::to_string(generation.number()) + ": " + what + " " +
              std::to_string(is) + ", seen " + std::to_string(expected));
  };
  expect(f.served >= s.served_before, "served fell to", f.served, s.served_before);
  s.served_before = f.served;
  expect(f.served == s.answered, "served", f.served, s.answered);
  expect(ended <= s.accepted, "ended connections", ended, s.accepted);
  if (!is_last) return;
  const auto found = worlds().find(generation.supervisor());
  const bool in_order = found != worlds().end() && !found->second->was_killed;
  if (!in_order) return;
  expect(ended >= s.begun, "ended connections", ended, s.begun);
  expect(f.forked == s.forks, "forked", f.forked, s.forks);
  const uint64_t gone = f.retired + f.crashed + f.timed_out + f.recycled;
  expect(gone == s.deaths, "workers that are gone", gone, s.deaths);
}

// --- clients -------------------------------------------------------------------------------------

void Scenario::next_client() {
  if (is_finishing_) return;
  // The load changes now and then: how many come, and for how long.
  if (random_.one_in(200)) {
    mean_gap_ = random_.between(50, 120) * kMillisecond;
    service_ = random_.between(2, 150) * kMillisecond;
  }
  if (!is_quiet_) {
    arrive();
    if (random_.one_in(300))
      for (uint64_t i = random_.between(3, 40); i > 0; --i) arrive();
  }
  kernel_.after(random_.around(mean_gap_), [this] { next_client(); });
}

void Scenario::arrive() {
  auto& socket = *kernel_.file<ListenSocket>(listeners_[random_.next() % listeners_.size()]->fd());
  if (socket.door_is_closed) return;
  auto made = std::make_unique<Connection>();
  made->number = next_connection_++;
  made->service = std::min<Nanoseconds>(random_.around(service_), 2 * kSecond);
  const bool has_deadline = pool_->settings().connection_timeout != 0;
  const uint64_t kind = random_.between(0, 999);
  made->kind = kind < 10                   ? Connection::Kind::kFail
               : kind < 18                 ? Connection::Kind::kCrash
               : kind < 20                 ? Connection::Kind::kExit
               : kind < 22 && has_deadline ? Connection::Kind::kHang
               : kind < 23 && has_deadline ? Connection::Kind::kHangOn
                                           : Connection::Kind::kServe;
  ++tally_.connections;
  ++waiting_;
  Connection& connection = kernel_.open(std::move(made), 0);
  kernel_.arrive(socket, connection);
  look();
}

// --- accidents -----------------------------------------------------------------------------------

std::vector<Process*> Scenario::workers() {
  std::vector<Process*> found;
  for (const auto& [pid, process] : kernel_.processes())
    if (process->kind == Kind::kWorker && !process->is_dead) found.push_back(process.get());
  return found;
}

void Scenario::next_accident() {
  if (is_finishing_) return;
  if (!is_quiet_) meet_with_accident();
  kernel_.after(random_.around(3 * kSecond), [this] { next_accident(); });
}

void Scenario::meet_with_accident() {
  const auto all = workers();
  const uint64_t what = random_.between(0, 99);
  Process* const one = all.empty() ? nullptr : all[random_.next() % all.size()];
  if (what < 30 && one) {
    kill_worker(*one);
  } else if (what < 50 && one) {
    one->dies_in = static_cast<uint32_t>(random_.between(1, 40));
    say("worker " + std::to_string(one->pid) + " will be killed");
    seen(*world_of(*one)).was_disturbed = true;
    ++tally_.kills;
  } else if (what < 58) {
    for (Process* worker : all) kill_worker(*worker);
  } else if (what < 66 && one) {
    seen(*world_of(*one)).was_disturbed = true;
    one->may_leave = true;
    if (world_of(*one)->process) kernel_.send_signal(one->pid, SIGTERM);
  } else if (what < 72 && one) {
    stop_worker(*one);
  } else if (what < 80) {
    kill_supervisor();
  } else if (what < 85) {
    begin_bad_starts();
  } else if (what < 90) {
    begin_failing_forks();
  } else if (what < 91) {
    begin_quiet();
  }
}

void Scenario::kill_worker(Process& worker) {
  say("worker " + std::to_string(worker.pid) + " is killed");
  ++tally_.kills;
  seen(*world_of(worker)).was_disturbed = true;
  worker.was_killed = true;
  kernel_.send_signal(worker.pid, SIGKILL);
}

void Scenario::stop_worker(Process& worker) {
  seen(*world_of(worker)).was_disturbed = true;
  const Nanoseconds how_long = random_.between(10, 7000) * kMillisecond;
  say("worker " + std::to_string(worker.pid) + " is stopped for " +
      std::to_string(how_long / kMillisecond) + " ms");
  worker.was_stopped = true;
  worker.was_killed |= how_long > 4 * kSecond;  // it may be
  kernel_.send_signal(worker.pid, SIGSTOP);
  look();
  kernel_.after(how_long, [this, pid = worker.pid] {
    kernel_.send_signal(pid, SIGCONT);
    look();
  });
}

// Not so often that the daemon would have to take it for one that cannot run.
void Scenario::kill_supervisor() {
  World* world = in_charge();
  if (!world || pool_->state() != PoolState::kRunning) return;
  if (kernel_.now() < supervisor_killed_at_ + 3 * kSecond) return;
  supervisor_killed_at_ = kernel_.now();
  say("supervisor " + std::to_string(world->process->pid) + " is killed");
  ++tally_.supervisors_killed;
  world->was_killed = true;
  seen(*world).was_disturbed = true;
  if (random_.one_in(2))
    world->process->dies_in = static_cast<uint32_t>(random_.between(1, 60));
  else
    kernel_.send_signal(world->process->pid, SIGKILL);
}

// For a while no worker comes through its start. Then the breaker may still wait for as long as that has lasted.
void Scenario::begin_bad_starts() {
  World* world = in_charge();
  if (!world || is_bad_now_ || !world->behaviour->has_start || kernel_.now() < unable_until_)
    return;
  is_bad_now_ = true;
  Behaviour* const b = world->behaviour;
  const Nanoseconds how_long = random_.between(200, 20000) * kMillisecond;
  say("no worker comes through its start for " + std::to_string(how_long / kMillisecond) + " ms");
  (random_.one_in(2) ? b->start_crashes : b->start_fails) = true;
  unable_until_ = kernel_.now() + how_long + std::min(40 * kSecond, 3 * how_long + kSecond);
  const uint64_t forks_before = tally_.forks;
  kernel_.after(how_long, [this, b, forks_before, how_long] {
    b->start_crashes = b->start_fails = false;
    is_bad_now_ = false;
    // Five rounds, of at most all of them each, and then one at a time, after ever longer pauses.
    const uint64_t most = 8 * 24 + 20;
    if (tally_.forks - forks_before > most)
      violate(std::to_string(tally_.forks - forks_before) + " forks in " +
              std::to_string(how_long / kMillisecond) + " ms in which none came through its start");
  });
}

void Scenario::begin_failing_forks() {
  if (kernel_.now() < unable_until_) return;
  const Nanoseconds how_long = random_.between(200, 15000) * kMillisecond;
  say("forks fail for " + std::to_string(how_long / kMillisecond) + " ms");
  kernel_.fail_forks(EAGAIN, kernel_.now() + how_long);
  unable_until_ =
      kernel_.now() + how_long + std::min(5 * kSecond + kSecond, 2 * how_long + kSecond);
  const uint64_t tried_before = kernel_.forks_tried();
  kernel_.after(how_long, [this, tried_before, how_long] {
    const uint64_t tried = kernel_.forks_tried() - tried_before;
    if (tried > 30)
      violate(std::to_string(tried) + " forks tried in " + std::to_string(how_long / kMillisecond) +
              " ms in which all failed");
  });
}

// Nobody comes for a while: what is too many leaves.
void Scenario::begin_quiet() {
  if (kernel_.now() < unable_until_ || kernel_.now() + 40 * kSecond > ends_at_) return;
  is_quiet_ = true;
  say("nobody comes for 30 s");
  kernel_.after(30 * kSecond, [this] { end_quiet(); });
}

void Scenario::end_quiet() {
  is_quiet_ = false;
  World* world = in_charge();
  if (!world || pool_->state() != PoolState::kRunning || kernel_.now() < unable_until_) return;
  const Limits& limits = pool_->limits();
  // And those whose time has come, while others take their places.
  const uint32_t few = std::max(limits.min, limits.min_spare) + (world->settings.max_age ? 3 : 0);
  if (seen(*world).live > few)
    violate("nobody has come for 30 s, and there are " + std::to_string(seen(*world).live) +
            " workers, not " + std::to_string(few));
}

// --- what is seen --------------------------------------------------------------------------------

World* Scenario::in_charge() {
  if (!pool_) return nullptr;
  World* newest = nullptr;
  for (const Generation* g : pool_->all_generations()) {
    const auto found = worlds().find(g->supervisor());
    if (found == worlds().end() || !g->serves() || g->is_on_trial()) continue;
    World& world = *found->second;
    if (world.process) newest = &world;
  }
  return newest;
}

// All that serve just now.
void Scenario::note_told_to_leave() {
  for (const auto& [pid, world] : worlds())
    if (!world->is_on_trial)
      world->told_to_leave_at = std::min(world->told_to_leave_at, kernel_.now());
}

void Scenario::on_fork(Process& worker) {
  ++tally_.forks;
  const World& world = *world_of(worker);
  Seen& s = seen(world);
  ++s.forks;
  say("worker " + std::to_string(worker.pid) + " of generation " +
      std::to_string(world.generation) + " is forked");
  if (s.max_allowed == 0) s.max_allowed = std::max(world.settings.limits.max, pool_->limits().max);
  const auto& children = world.process->children;
  const auto live = static_cast<uint32_t>(children.size());  // whom it has not reaped, too
  if (live > s.max_allowed)
    violate(std::to_string(live) + " workers, and max is " + std::to_string(s.max_allowed));
  ++s.live;
  unready_.insert(&worker);
  ++s.unready;
}

void Scenario::is_ready(Process& worker) {
  if (unready_.erase(&worker)) --seen(*world_of(worker)).unready;
}

void Scenario::on_started(Process& worker) {
  say("worker " + std::to_string(worker.pid) + " of generation " +
      std::to_string(world_of(worker)->generation) + " has started");
  is_ready(worker);
}

void Scenario::on_death(Process& process) {
  if (process.kind == Kind::kWorker) {
    ++tally_.deaths;
    // (The breaker cannot know why it did not come through.)
    if (process.was_killed && unready_.contains(&process) && kernel_.now() < unable_until_)
      unable_until_ = std::max(unable_until_, kernel_.now() + 40 * kSecond);
    is_ready(process);
    idle_.erase(&process);
    Seen& s = seen(*world_of(process));
    ++s.deaths;
    --s.live;
    if (process.status != 0) died_at_ = kernel_.now();
    judge_leaving(process, s.live);
  } else if (process.kind == Kind::kSupervisor) {
    ++tally_.supervisors;
    World& world = *world_of(process);
    world.process = nullptr;
    world.was_killed |= process.was_killed || WIFSIGNALED(process.status);
    // The next one is launched at once, or after the first of the pauses.
    starting_until_ = std::max(starting_until_, kernel_.now() + 700 * kMillisecond);
  }
  look();
}

// Without a fault, and though nobody has told it to: so the pool did without it.
void Scenario::judge_leaving(const Process& worker, uint32_t left) {
  const World& world = *world_of(worker);
  if (worker.status != 0 || worker.may_leave || !world.process || &world != in_charge()) return;
  if (world.settings.connections || world.settings.max_age || !is_serving()) return;
  if (kernel_.now() < std::max(limits_set_at_, died_at_) + 200 * kMillisecond) return;
  if (left + 1 == pool_->limits().min) violate("a worker was let go, and there are fewer than min");
}

void Scenario::on_accept(Process& worker) {
  --waiting_;
  is_ready(worker);
  const World& world = *world_of(worker);
  ++seen_[world.generation].accepted;
  if (world.is_on_trial) violate("a worker of a generation on trial has accepted");
  look();
}

void Scenario::on_epoll_wait(Process& process, bool begins) {
  if (process.kind != Kind::kWorker) return;
  is_ready(process);
  if (begins)
    idle_.insert(&process);
  else
    idle_.erase(&process);
  look();
}

void Scenario::on_serve(Connection& connection, Process& worker) {
  connection.accepted_at = kernel_.now();
  ++seen(*world_of(worker)).begun;
  say("worker " + std::to_string(worker.pid) + " serves " + std::to_string(connection.number));
}

void Scenario::on_answer(Connection& connection) {
  const Process& worker = *kernel_.find(connection.worker);
  if (connection.kind == Connection::Kind::kServe) ++seen(*world_of(worker)).answered;
}

void Scenario::on_close(Connection& connection) {
  if (connection.is_answered) {
    ++tally_.served;
    return;
  }
  ++tally_.lost;
  if (connection.worker == 0) {
    --waiting_;
    // What waits at the end has a drain's time, and 5 s at the most.
    const Nanoseconds time = std::min(pool_->settings().drain_timeout, 5 * kSecond);
    const bool is_late = is_finishing_ && kernel_.now() >= finished_at_ + time;
    if (kernel_.now() >= unable_until_ && !is_late && !was_drained_)
      violate("a client was refused");
    return;
  }
  judge_ended_early(connection, kernel_.find(connection.worker));
}

// Without an answer: because it would have it so, because its worker was killed, or because its time was over.
void Scenario::judge_ended_early(const Connection& connection, const Process* worker) {
  using Kind = Connection::Kind;
  if (!worker) return;
  if (connection.kind == Kind::kCrash || connection.kind == Kind::kExit || worker->was_killed)
    return;
  const World& world = *world_of(*worker);
  const Nanoseconds took = kernel_.now() - connection.accepted_at;
  const Nanoseconds drained_at = world.told_to_leave_at == kNever
                                     ? kNever
                                     : world.told_to_leave_at + world.settings.drain_timeout;
  if (kernel_.now() >= drained_at || (worker->was_stopped && !world.process)) return;
  if (connection.kind == Kind::kServe || connection.kind == Kind::kFail) {
    violate("connection " + std::to_string(connection.number) + " was lost after " +
            std::to_string(took / kMillisecond) + " ms, of " +
            std::to_string(connection.service / kMillisecond) + " ms");
    return;
  }
  const Nanoseconds timeout = world.settings.connection_timeout;
  const auto* generation = [&]() -> const Generation* {
    for (const Generation* g : pool_->all_generations())
      if (g->number() == world.generation) return g;
    return nullptr;
  }();
  // One that is to leave, or is an orphan, has a drain's time.
  if (!world.process || !generation || !generation->serves() || is_finishing_) return;
  if (took + kLate < timeout) violate("a connection was ended before its time");
  const Nanoseconds most = timeout + kLate + (connection.kind == Kind::kHangOn ? kTermToKill : 0);
  if (took > most && !worker->was_stopped)
    violate("a connection was ended " + std::to_string((took - timeout) / kMillisecond) +
            " ms after its time");
}

// At each change.
void Scenario::look() {
  const Nanoseconds now = kernel_.now();
  const auto is_running = [](const Process* p) { return !p->is_stopped; };
  const bool is_anybody_idle = std::any_of(idle_.begin(), idle_.end(), is_running);
  beside_idle_.set(waiting_ > 0 && is_anybody_idle, now);
  World* world = in_charge();
  const bool serves = is_serving() && world && world->process;
  const Seen* s = serves ? &seen(*world) : nullptr;
  not_grown_.set(s && waiting_ > s->unready + idle_.size() && s->live < pool_->limits().max, now);
  below_min_.set(s && s->live < pool_->limits().min && pool_->state() == PoolState::kRunning, now);
  uint32_t all = 0;
  for (const auto& [number, one] : seen_) all += one.live;
  nobody_.set(is_serving() && all == 0 && (pool_->limits().min > 0 || waiting_ > 0), now);
}

void Scenario::watch() {
  const Nanoseconds now = kernel_.now();
  look();
  if (beside_idle_.is_too_long(now, 0)) violate(beside_idle_.what());
  const Nanoseconds excused = std::max(unable_until_, starting_until_);
  for (const Lasting* one : {&not_grown_, &below_min_})
    if (one->is_too_long(now, excused)) violate(one->what());
  if (nobody_.is_too_long(now, unable_until_)) violate(nobody_.what());
  if (random_.one_in(400) && pool_)
    for (const Generation* g : pool_->all_generations()) read_figures(*g, false);
  kernel_.after(50 * kMillisecond, [this] { watch(); });
}

void Scenario::violate(const std::string& what) {
  if (!violation_.empty()) return;
  char text[64];
  std::snprintf(text, sizeof text, "at %.6f s: ", to_seconds(kernel_.now()));
  violation_ = text + what;
  say("violated: " + what + " (" + (pool_ ? pool_state_name(pool_->state()) : "") + ", " +
      std::to_string(waiting_) + " wait, " + std::to_string(idle_.size()) + " idle)");
}

}  // namespace

bool is_traced = false;

void write_log(const LogLine& line) {
  Process* process = kernel->current();
  if (is_traced)
    std::fprintf(stderr, "%12.6f %d: %.*s\n", to_seconds(kernel->now()), process ? process->pid : 0,
                 static_cast<int>(line.text.size()), line.text.data());
}

Tally& Tally::operator+=(const Tally& more) {
  constexpr uint64_t Tally::*kCounts[] = {
      &Tally::connections, &Tally::served,  &Tally::lost,        &Tally::forks,
      &Tally::deaths,      &Tally::kills,   &Tally::supervisors, &Tally::supervisors_killed,
      &Tally::reloads,     &Tally::refused, &Tally::orders};
  minutes += more.minutes;
  for (const auto count : kCounts) this->*count += more.*count;
  return *this;
}

Outcome play(uint64_t seed, double minutes, bool is_to_be_traced) {
  is_traced = is_to_be_traced;
  set_log_sink(write_log);
  set_log_level(is_traced ? LogLevel::kDebug : LogLevel::kError);
  auto* scenario = new Scenario(seed, minutes);  // for ever: fibers lie on its kernel's stacks
  return scenario->play();
}

}  // namespace preforkd::sim
