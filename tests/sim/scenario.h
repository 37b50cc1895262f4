// One run: its daemon, with what is ordered of it, and its clients (scenario.cc); its accidents (accidents.cc); what is seen of
// all of them, and what must not be (judgement.cc).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "daemon/children.h"
#include "daemon/pool_set.h"
#include "tests/sim/parts.h"
#include "tests/sim/play.h"

namespace preforkd::sim {

// What must not last, lasts no longer than this:
// one waits while another is idle: a wake-up that was lost with a worker is made good at its death, or a tenth of a second later;
constexpr Nanoseconds kWaitsBesideIdle = 150 * kMillisecond;
// more wait than have a worker to come: the supervisor is woken at once, and forks at once;
constexpr Nanoseconds kNotGrown = 150 * kMillisecond;
// fewer workers than `min`: the same;
constexpr Nanoseconds kBelowMin = 150 * kMillisecond;
// nobody to serve: until another supervisor has begun.
constexpr Nanoseconds kNobody = 1 * kSecond;

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

  Outcome play();

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

}  // namespace preforkd::sim
