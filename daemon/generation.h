// One incarnation of a pool, as the daemon sees it: a supervisor process, the channel to it, the pipe from it, and the
// segment it works in. Owned by its Pool. It begins with a launch and is over when the supervisor and every process that
// descends from it are gone, in whatever session: one that a handler or a program has left behind may still accept.
// The supervisor is a child subreaper, and so is the daemon. So none leaves the tree, and when a supervisor dies its
// children are the daemon's; whose they are, their session says, or else their user.
//
// Orders are idempotent. Each is repeated every second until it is acknowledged; a supervisor that says
// nothing for 5 s while an order waits is killed (its workers finish, the pool starts the next one). While
// it preloads it obeys nothing, and is not held to that: it has `timeouts.start` for it. (Before that, it has 5 s for
// its exec: its user may stop it, or own the folder that it hangs in.) One that acknowledged a drain has 5 s more than
// that allows.
//
// Reports are believed of the supervisor alone (ipc/message_pipe.h). One that nobody vouches for is the last word of a
// supervisor that dies just now, or of an impostor: that is known a moment later. Reports are read within a budget:
// what is beyond stays in the pipe, whose writer goes without; log lines beyond theirs are counted.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/budget.h"
#include "base/loop.h"
#include "daemon/launch.h"
#include "daemon/listener.h"
#include "daemon/log_link.h"
#include "daemon/patience.h"
#include "ipc/channel.h"
#include "ipc/message_pipe.h"
#include "ipc/supervisor_messages.h"

namespace preforkd {

// What a generation tells its pool. Called from the event loop.
class GenerationOwner {
 public:
  virtual void on_report(uint32_t generation, const Report& report) = 0;
  // It will not become a supervisor; its death follows.
  virtual void on_failed_launch(uint32_t generation, const LaunchFailure& failure) = 0;
  virtual void on_over(uint32_t generation) = 0;  // no process is left
  virtual void on_supervisor_death(uint32_t generation, int status) = 0;
  // Children of the daemon that it did not start, and that no generation has for its own yet. Nothing: it cannot be known
  // just now. (A supervisor that is dead, but not reaped yet, has left some: its own generation is the first to look.)
  virtual std::optional<std::vector<pid_t>> unclaimed_children() = 0;

 protected:
  ~GenerationOwner() = default;
};

class Generation {
 public:
  enum class State {
    kStarting,  // launched, not ready: preloading (it obeys no order yet), starting its first workers
    kServing,
    kDraining,  // was told to drain or stop
    kOrphaned,  // the supervisor is gone, workers may still serve
    kOver,
  };

  // What was launched.
  struct Parts {
    uint32_t number = 0, capacity = 0;  // capacity: slots of the segment
    std::string pool;
    uid_t uid = 0;                  // its user
    Nanoseconds start_timeout = 0;  // of the pool: for its preload; 0: none
    bool on_trial = false;          // nobody in it accepts before the order to serve
    std::vector<uint32_t> success;  // of the pool, if it is one of programs; else empty
    Child child;
    Channel orders;
    Inbox reports;
    UniqueFd read_only_segment;
    Listeners sockets;
    std::shared_ptr<LogPipe> log_pipe;
  };
  Generation(EventLoop& loop, GenerationOwner& owner, Parts parts);
  // The same over an upgrade in place: what to write down, and the same generation from that. `sockets` are
  // those that the record names.
  GenerationRecord record() const;
  Generation(EventLoop& loop, GenerationOwner& owner, std::string pool,
             const GenerationRecord& record, Listeners sockets, std::shared_ptr<LogPipe> log_pipe);
  // Before that is written down: a state that was put off, as many were said one after the other, is said now.
  void say_put_off();
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // From now on it reports to another: a trial is over.
  void belongs_to(GenerationOwner& owner) { owner_ = &owner; }

  uint32_t number() const { return number_; }
  uint32_t capacity() const { return capacity_; }  // slots of its segment
  State state() const { return state_; }
  pid_t supervisor() const { return child_.pid; }
  // Whether this child of the daemon, in this session, is the supervisor, or what it has left.
  bool owns(pid_t child, pid_t session) const;
  int segment() const { return segment_.get(); }
  bool has_supervisor() const { return state_ < State::kOrphaned; }
  bool is_supervised_by(pid_t pid) const { return has_supervisor() && child_.pid == pid; }
  bool has_dead_supervisor() const { return has_supervisor() && is_dead(); }  // not reaped yet
  bool is_preloaded() const { return preloaded_; }
  bool serves() const { return state_ <= State::kServing; }
  bool is_on_trial() const { return on_trial_; }  // not told to serve yet
  // Whether it may have workers that accept: they do so before the first `min` of them are there, and while
  // it drains until it says that none is left.
  bool may_accept() const { return has_supervisor() && preloaded_ && !quiet_; }
  const Listeners& sockets() const { return sockets_; }
  // Not if one of them had to be made anew: Listener::take_another_socket().
  bool has_current_sockets() const;
  // The place of each of these in the supervisor's list of listen sockets, as Order::finish has it.
  uint64_t bits_of(const Listeners& some) const;
  uint32_t workers() const { return workers_; }  // when it was last heard of

  // `on_done` is called when the supervisor acknowledged, or with false when it died before.
  using OnDone = std::function<void(bool)>;
  void order(Order order, OnDone on_done = {});
  void drain(Nanoseconds timeout, uint64_t finish);  // `finish`: see Order
  void drain_again(Nanoseconds timeout,
                   uint64_t finish);           // after an upgrade: it may not have heard of it
  void leaves_by_itself(Nanoseconds timeout);  // it drains though nobody told it to
  void stop();                                 // end everything now
  void kill_all();
  // Whether it is neither over nor told to be, but does not serve: its supervisor died, or left by itself.
  bool is_lost() const { return !was_told_ && !serves() && state_ != State::kOver; }
  // One that is lost has no more time: its supervisor is killed, and its workers have a second after TERM.
  void end_early();
  bool is_ended_early() const { return is_ended_early_; }

  // The supervisor was stopped by a signal (SIGSTOP), or goes on. One that stays stopped is killed. Said
  // once: its own workers may stop it as often as they like.
  void supervisor_stopped(bool stopped);
  // The daemon reaped this generation's supervisor. Its orphans have `patience` to finish.
  void supervisor_died(int status, Nanoseconds patience);
  // The daemon reaped somebody of its session who was not the supervisor: before that had been reaped, or after.
  void orphan_ended(pid_t pid, int status);
  // Programs that ended when they had no supervisor any more, and of themselves, by pid: whether well. (Among them are
  // their children; who was a worker, and had a connection, stands in memory that the daemon does not read.)
  const std::map<pid_t, bool>& ended_programs() const { return ended_programs_; }

 private:
  // Far more than a pool needs that loses 250 workers a second (supervisor/breaker.h) and says so of each.
  static constexpr uint32_t kReportsAtOnce = 2000, kReportsPerSecond = 1000;
  static constexpr Nanoseconds kReportCosts =
      20 * kMicrosecond;  // of a processor; dearer ones count more
  // That a machine stood still meanwhile is in the time that a look took, too, and is nobody's fault.
  static constexpr Nanoseconds kDearest = 10 * kMillisecond;
  static constexpr uint32_t kLinesAtOnce = 200, kLinesPerSecond = 300;
  static constexpr uint32_t kStatesAtOnce = 20, kStatesPerSecond = 2;

  struct Outstanding {
    Order order;
    OnDone on_done;
  };
  void watch_reports();
  void read_reports();
  pid_t sender_of(const std::string& report);
  bool is_dead() const;
  void believe(Report report);
  bool is_within_budget(ReportType type);
  void put_off(const Report& report);
  void say_left_out();
  void disbelieve(pid_t sender);
  void take_ill();
  void rest(Nanoseconds pause);
  void close_ends();
  void wait_for_start(Nanoseconds timeout);
  void start_took_too_long();
  void end_start(const std::string& reason);
  void limit_drain(Nanoseconds until);
  void note_ack(uint32_t number);
  void replace_older(Order order, OnDone& on_done);
  void repeat_orders();
  void send(const Order& order);
  void kill_after(Nanoseconds delay, const std::string& why);
  enum class Left { kNone, kSome, kInHand };  // in hand: there is more to be done about them
  void wait_for_orphans();
  Left look_at_orphans(Nanoseconds until);
  std::optional<std::vector<pid_t>> left_behind(Nanoseconds until);
  bool claim(Nanoseconds until);
  void term_orphans(const std::vector<pid_t>& left);
  bool kill_orphans(const std::vector<pid_t>& left);

  EventLoop& loop_;
  GenerationOwner* owner_;
  const uint32_t number_, capacity_;
  const uid_t uid_;
  const std::string pool_;
  const std::vector<uint32_t> success_;
  Child child_;
  Channel orders_;
  Inbox reports_;
  UniqueFd segment_;
  const std::shared_ptr<LogPipe> log_pipe_;  // which its processes write to
  const Listeners sockets_;                  // in the order in which the supervisor has them
  const std::vector<ino_t> inodes_;          // of those, as it was given them
  State state_ = State::kStarting;
  bool on_trial_ = false;
  bool preloaded_ = false;  // it reads its channel
  bool quiet_ = false;      // nobody in it accepts any more
  bool drained_ = false;    // it said so
  bool was_told_ = false;   // to leave
  bool is_ended_early_ = false;
  bool told_stopped_ = false;
  bool is_reaped_ = false;  // the supervisor, by the daemon
  uint32_t workers_ = 0;
  std::map<uint32_t, Outstanding> outstanding_;  // by order number
  uint32_t next_order_ = 1;
  Nanoseconds last_heard_ = 0;
  int repeated_in_vain_ = 0;  // orders, since it was last heard of
  std::string unclaimed_;     // a report that nobody vouches for; "": none
  Budget budget_{kReportsAtOnce, kReportsPerSecond};
  Budget lines_{kLinesAtOnce, kLinesPerSecond}, states_{kStatesAtOnce, kStatesPerSecond};
  // The last of a pool's states that are beyond their budget: one of them holds, so it waits for room.
  std::optional<Report> put_off_;
  uint64_t left_out_ = 0;
  Nanoseconds say_left_out_at_ = 0;  // not before
  EventLoop::Timer repeat_timer_, orphan_timer_, reports_timer_, put_off_timer_;
  PatientTimer exec_timer_{loop_};   // it has to be executed
  PatientTimer start_timer_{loop_};  // it has to be through its preload
  PatientTimer drain_timer_{loop_};  // then it is killed, with its workers
  PatientTimer kill_timer_{loop_};
  Nanoseconds orphans_until_ = kNever;  // then TERM, and a second later KILL
  bool orphans_termed_ = false;
  // Of the daemon's children: those that left its session and are its own; those of others, in a look that takes
  // several turns; those that got a KILL.
  std::set<pid_t> claimed_, of_others_, killed_;
  std::map<pid_t, bool> ended_programs_;  // as many as there are slots
};

}  // namespace preforkd
