// What befalls the processes of a scenario.
#include "tests/sim/scenario.h"

#include <algorithm>

namespace preforkd::sim {

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

}  // namespace preforkd::sim
