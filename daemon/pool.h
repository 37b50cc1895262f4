// One pool, as the daemon sees it: settings, listen sockets, and the generations that serve them.
//
//   starting ──▶ running ⇄ degraded
//       └──────────┴──────────┴──▶ draining ──▶ stopped ──▶ starting (resume)
//
// starting: the newest generation is not ready; after timeouts.start it has had its chance, and the pool is degraded
// until it is. degraded: its breaker tripped, or its supervisor could not
// run or died just now (the reason says which). draining: it was told to stop accepting; stopped: nobody
// serves, and connections wait in the kernel's queue until somebody resumes. A supervisor that dies is
// replaced at once; if that happens again soon, after 100 ms, which doubles while it does not get ready. While 16
// generations that nobody told to leave still have processes, none is launched, and the oldest of them has no more time.
//
// A generation that is over is kept until control has read its figures. While control cannot be had, that is for the
// last 8 of a pool; those of older ones are dropped, and the pool's sums are less by them from then on: the daemon reads
// no memory that a worker could write, and each costs a descriptor and its memory.
//
// A reload: try_out() launches a generation of the new plan beside the one that serves (daemon/trial.h), and
// says how it went; then either promote() makes that plan the pool's and drains what served before, or
// abandon() drains the newcomer. Whatever happens meanwhile, one of the two accepts.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/backoff.h"
#include "base/log.h"
#include "base/loop.h"
#include "daemon/generations.h"
#include "daemon/patience.h"
#include "daemon/trial.h"

namespace preforkd {

enum class PoolState { kStarting, kRunning, kDegraded, kDraining, kStopped };
const char* pool_state_name(PoolState state);

// What a pool tells the daemon.
class PoolOwner {
 public:
  virtual void on_pool_changed(const std::string& name) = 0;           // state, limits, generations
  virtual std::optional<std::vector<pid_t>> unclaimed_children() = 0;  // as GenerationOwner has it

 protected:
  ~PoolOwner() = default;
};

class Pool final : private GenerationOwner {
 public:
  Pool(EventLoop& loop, PoolOwner& owner, const Paths& paths, PoolPlan plan, LogLevel log_level);
  // The same over an upgrade in place. `index` says under which number a listener is written down; `all` has
  // them by that.
  using ListenerIndex = std::function<size_t(const std::shared_ptr<Listener>&)>;
  PoolRecord record(const ListenerIndex& index) const;
  Pool(EventLoop& loop, PoolOwner& owner, const Paths& paths, PoolPlan plan, LogLevel log_level,
       const PoolRecord& record, const Listeners& all);
  void go_on();        // after that: what was due
  void say_put_off();  // before that is written down (daemon/generation.h)
  ~Pool();

  // Starts the first generation. `trouble`: why it will not serve, or not all addresses, as far as is known; or "". It
  // begins degraded then, and does without the addresses. Throws SysError: no memory for it, no process to be had.
  void start(const std::string& trouble = "");
  void say_listening(const Listeners& before) const;  // where it does, and those before did not
  // The reason why not, or "".
  std::string drain();
  std::string resume();
  // Takes the limits at once; `on_done` when the supervisor works by them. Where `afterwards` differ, they are those
  // after `for_how_long`; 0: when it was said before. The caller has checked that neither contradict themselves.
  using OnDone = std::function<void()>;
  void set_limits(const Limits& limits, const Limits& afterwards, Nanoseconds for_how_long,
                  OnDone on_done);
  // The limits that are not for a while only.
  const Limits& lasting_limits() const { return revert_timer_.is_set() ? limits_before_ : limits_; }

  // --- reload ---
  // The plan has the same name. Throws SysError: it could not even be launched.
  // `recycled`: nothing else has changed, and limits may be set to what they may be now.
  void try_out(PoolPlan plan, const Limits& limits, bool recycled, Trial::OnVerdict on_verdict);
  // `dropped`: those of the present plan's listen sockets that no pool uses any more. What waits there is
  // served, then clients are refused. `recycled`: nothing else has changed, and limits that are for a while stay so.
  void promote(const Listeners& dropped, bool recycled);
  void abandon();
  // A plan that needs no other processes: limits (at once), backlog; or any one, of a pool that nobody serves.
  // `keeps_limits`: those that were set since.
  void adopt(PoolPlan plan, const Listeners& dropped, bool keeps_limits = false);
  // An address of it does not listen yet (daemon/moves.h): the generation that was promoted serves when all do, and
  // what served before until then, unless an address was dropped. A generation that is launched meanwhile
  // is on trial, too; or, where `reason` says that it will last, does without that address, and follows who serves when it is
  // ready.
  bool awaits_address() const { return plan_.awaits_address(); }
  // What it awaits is another socket's of ours, which has to make way first.
  bool waits_for_others() const;
  void serve_at_last();
  void cannot_listen(const std::string& reason);
  // Nobody can connect to an address of it (daemon/lost_files.h), or everybody can again.
  void is_cut_off(const std::string& reason);
  void is_cut_off_no_more();
  // Tells who serves, and may have no worker, when a client comes. A commit has them forgotten meanwhile: a socket may be
  // another pool's afterwards.
  void watch_listeners();
  void forget_listeners();
  // Asks how many workers there are, which try_out() begins with; `then` also if nobody answers.
  void count_workers(std::function<void()> then);

  // The daemon ends, or the pool was taken out of the file: serves what already waits, for at most
  // timeouts.drain; then refuses. `keep_open`: listen sockets that another pool has taken over.
  void finish(const Listeners& keep_open = {});
  void stop_now();
  void kill_all();
  bool is_over() const;  // no process is left

  // Whether a child of the daemon, in this session, is one of its supervisors, or what such a one has left.
  bool owns(pid_t child, pid_t session) const;
  bool has_dead_supervisor() const;  // in any of its generations: not reaped yet
  // waitpid() had news of a child: it ended, was stopped, goes on. True if it is a supervisor of this pool.
  bool child_changed(pid_t pid, int status);
  // One that is none has ended. True if it was what a supervisor of this pool has left.
  bool orphan_ended(pid_t pid, pid_t session, int status);
  // A supervisor that does not answer is replaced; one that does says how many workers it has.
  void ping();

  // Control read a generation that is over: `base` are the sums with it.
  void close_generation(uint32_t number, std::string base);
  // Sums with all that control has read, of generations that the next control cannot read: what comes is added to them.
  void keep_figures(std::string base) { base_ = std::move(base); }

  const PoolPlan& plan() const { return plan_; }
  const PoolSettings& settings() const { return plan_.settings; }
  const Limits& limits() const { return limits_; }
  PoolState state() const { return state_; }
  const std::string& reason() const { return reason_; }
  uint32_t generation() const {
    return generations_.newest() ? generations_.newest()->number() : 0;
  }
  // Whether somebody serves, as far as is known: it runs, or is degraded and has workers.
  bool has_workers() const { return state_ == PoolState::kRunning || degraded_workers_ > 0; }
  bool is_serving() const;  // neither drained nor told to
  bool is_settled() const;  // who was told to leave accepts no more, who was told to serve does
  // What `max` may be set to: the slots of the newest segment, and of the one on trial.
  uint32_t capacity() const {
    return trial_ ? std::min(capacity_, trial_->generation().capacity()) : capacity_;
  }
  const Listeners& listeners() const { return plan_.listeners; }
  std::vector<const Generation*> all_generations() const;  // oldest first; one on trial is the last
  const Trial* trial() const { return trial_.get(); }
  const std::string& base() const { return base_; }
  void set_log_level(LogLevel level) { log_level_ = level; }

 private:
  void on_report(uint32_t generation, const Report& report) override;
  void on_failed_launch(uint32_t generation, const LaunchFailure& failure) override;
  void on_over(uint32_t generation) override;
  void on_supervisor_death(uint32_t generation, int status) override;
  std::optional<std::vector<pid_t>> unclaimed_children() override {
    return owner_.unclaimed_children();
  }

  void launch();
  void go_without();
  void set_socket_options();
  void warn_of_short_queue(const Listener& listener) const;
  void launch_again();
  void follow_who_serves();
  void launch_soon(bool not_at_once = false);
  void restart_later();
  bool has_room();
  void drop_unread();
  bool newest_has_what_there_is();
  void look_again_after(uint32_t generation);
  void on_failure(uint32_t generation, const std::string& reason);
  void on_nobody_accepts(uint32_t generation);
  void revert_at(Nanoseconds when);
  void revert_limits();
  void leave(const Listeners& dropped);
  void give_up_dropped();
  void tell_to_serve(Generation& generation);
  void leave_to_next();
  void leave_to_newest();
  void newest_serves();
  void has_to_wait();
  void set_state(PoolState state, std::string reason = "");
  void limit_start();
  void log_line(LogLevel level, const std::string& text, Event event = Event::kNone) const;

  EventLoop& loop_;
  PoolOwner& owner_;
  const Paths& paths_;
  PoolPlan plan_;
  LogLevel log_level_;

  Limits limits_;
  Limits limits_before_;       // what they are when revert_timer_ has run
  Nanoseconds revert_at_ = 0;  // if revert_timer_ is set
  EventLoop::Timer revert_timer_;

  Generations generations_;
  std::unique_ptr<Trial> trial_;
  Listeners dropped_;  // who still waits there is served by the draining generations
  uint32_t next_generation_ = 1;
  uint32_t capacity_ = 0;          // of the newest generation
  uint32_t degraded_workers_ = 0;  // that serve, when it said so
  std::string base_;
  PoolState state_ = PoolState::kStopped;
  std::string reason_;
  bool finishing_ = false;
  bool taking_over_ =
      false;  // the newest generation was told to serve, or will be, and has not answered
  bool is_cut_off_ = false;  // the reason why it is degraded is that
  bool watching_ = false;
  Nanoseconds launched_at_ = 0;
  static constexpr Backoff kRestart = {100 * kMillisecond, 10 * kSecond};
  uint32_t failures_ = 0;  // of supervisors, one soon after the other
  EventLoop::Timer restart_timer_, unread_timer_;
  PatientTimer start_timer_{loop_};
};

}  // namespace preforkd
