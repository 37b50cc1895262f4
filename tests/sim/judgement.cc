// What is seen of a scenario, and what of it must not be.
#include "tests/sim/scenario.h"

#include <sys/wait.h>

#include <algorithm>
#include <cstdio>

namespace preforkd::sim {
namespace {

// A deadline is kept within this: TERM, KILL, and a look.
constexpr Nanoseconds kTermToKill = 1 * kSecond, kLate = 300 * kMillisecond;

}  // namespace

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
  using How = Connection::Kind;
  if (!worker) return;
  if (connection.kind == How::kCrash || connection.kind == How::kExit || worker->was_killed) return;
  const World& world = *world_of(*worker);
  const Nanoseconds took = kernel_.now() - connection.accepted_at;
  const Nanoseconds drained_at = world.told_to_leave_at == kNever
                                     ? kNever
                                     : world.told_to_leave_at + world.settings.drain_timeout;
  if (kernel_.now() >= drained_at || (worker->was_stopped && !world.process)) return;
  if (connection.kind == How::kServe || connection.kind == How::kFail) {
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
  const Nanoseconds most = timeout + kLate + (connection.kind == How::kHangOn ? kTermToKill : 0);
  if (took > most && !worker->was_stopped)
    violate("a connection was ended " + std::to_string((took - timeout) / kMillisecond) +
            " ms after its time");
}

// At each change.
void Scenario::look() {
  const Nanoseconds now = kernel_.now();
  const auto is_running = [](const Process* p) { return !p->is_stopped; };
  const auto idle = static_cast<uint32_t>(std::count_if(idle_.begin(), idle_.end(), is_running));
  beside_idle_.set(waiting_ > 0 && idle > 0, now);
  World* world = in_charge();
  const bool serves = is_serving() && world && world->process;
  const Seen* s = serves ? &seen(*world) : nullptr;
  not_grown_.set(s && waiting_ > s->unready + idle && s->live < pool_->limits().max, now);
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

}  // namespace preforkd::sim
