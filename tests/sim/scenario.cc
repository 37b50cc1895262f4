#include "tests/sim/scenario.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "shm/reader.h"
#include "worker/signals.h"

namespace preforkd::sim {

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
  daemon_->signal_file = &signals;
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

// --- a run ---------------------------------------------------------------------------------------

Outcome Scenario::play() {
  kernel_.observe(this);
  handler_observer = this;
  Process& daemon = kernel_.spawn(nullptr, Kind::kDaemon, [this] { be_daemon(); });
  daemon.is_subreaper = true;
  daemon.blocked = signal_bit(SIGCHLD);
  daemon_ = &daemon;
  const Nanoseconds began = kernel_.now();
  kernel_.run([this] { return is_over_ || !violation_.empty(); });
  if (violation_.empty() && !is_over_) violate("nothing is left to happen");
  tally_.minutes = to_seconds(kernel_.now() - began) / 60;
  return {violation_, tally_};
}

bool is_traced = false;  // (of parts.h)

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
