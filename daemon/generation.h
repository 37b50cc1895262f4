// One incarnation of a pool, as the daemon sees it: a supervisor process, the channel to it, and the
// segment it works in. Owned by its Pool. It begins with a launch and is over when the supervisor and every
// process of its session are gone.
//
// Orders are idempotent. Each is repeated every second until it is acknowledged; a supervisor that says
// nothing for 5 s while an order waits is killed (its workers finish, the pool starts the next one). While
// it preloads it obeys nothing, and is not held to that.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/channel.h"
#include "base/loop.h"
#include "base/messages.h"
#include "daemon/launch.h"
#include "daemon/listener.h"

namespace preforkd {

// What a generation tells its pool. Called from the event loop.
class GenerationOwner {
 public:
  virtual void on_report(uint32_t generation, const Report& report) = 0;
  virtual void on_over(uint32_t generation) = 0;  // no process is left
  virtual void on_supervisor_death(uint32_t generation, int status) = 0;

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

  // `channel` names its senders: a handler's preload may have left workers a copy of its other end, and they are not
  // to speak for their supervisor.
  Generation(EventLoop& loop, GenerationOwner& owner, uint32_t number, uint32_t capacity,
             std::string pool, Child child, Channel channel, UniqueFd read_only_segment,
             Listeners sockets);
  // The same over an upgrade in place: what to write down, and the same generation from that. `sockets` are
  // those that the record names.
  GenerationRecord record() const;
  Generation(EventLoop& loop, GenerationOwner& owner, std::string pool,
             const GenerationRecord& record, Listeners sockets);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // From now on it reports to another: a trial is over.
  void belongs_to(GenerationOwner& owner) { owner_ = &owner; }

  uint32_t number() const { return number_; }
  uint32_t capacity() const { return capacity_; }  // slots of its segment
  State state() const { return state_; }
  pid_t supervisor() const { return child_.pid; }
  int segment() const { return segment_.get(); }
  bool has_supervisor() const { return state_ < State::kOrphaned; }
  bool serves() const { return state_ <= State::kServing; }
  // Whether it may have workers that accept: they do so before the first `min` of them are there, and while
  // it drains until it says that none is left.
  bool may_accept() const { return has_supervisor() && preloaded_ && !quiet_; }
  const Listeners& sockets() const { return sockets_; }
  // The place of each of these in the supervisor's list of listen sockets, as Order::finish has it.
  uint64_t bits_of(const Listeners& some) const;
  uint32_t workers() const { return workers_; }  // when it was last heard of

  // `on_done` is called when the supervisor acknowledged, or with false when it died before.
  using OnDone = std::function<void(bool)>;
  void order(Order order, OnDone on_done = {});
  void drain(Nanoseconds timeout, uint64_t finish);  // `finish`: see Order
  void drain_again(Nanoseconds timeout,
                   uint64_t finish);  // after an upgrade: it may not have heard of it
  void leaves_by_itself() { state_ = State::kDraining; }  // it drains though nobody told it to
  void stop();                                            // end everything now
  void kill_all();

  // The supervisor was stopped by a signal (SIGSTOP), or goes on. One that stays stopped is killed. Said
  // once: its own workers may stop it as often as they like.
  void supervisor_stopped(bool stopped);
  // The daemon reaped this generation's supervisor. Its orphans have `patience` to finish.
  void supervisor_died(int status, Nanoseconds patience);

 private:
  struct Outstanding {
    Order order;
    OnDone on_done;
  };
  void read_channel();
  void note_ack(uint32_t number);
  void replace_older(Order order, OnDone& on_done);
  void repeat_orders();
  void send(const Order& order);
  void kill_after(Nanoseconds delay, const std::string& why);
  void wait_for_orphans();

  EventLoop& loop_;
  GenerationOwner* owner_;
  const uint32_t number_, capacity_;
  const std::string pool_;
  Child child_;
  Channel channel_;
  UniqueFd segment_;
  const Listeners sockets_;  // in the order in which the supervisor has them
  State state_ = State::kStarting;
  bool preloaded_ = false;  // it reads its channel
  bool quiet_ = false;      // nobody in it accepts any more
  bool told_stopped_ = false;
  uint32_t workers_ = 0;
  std::map<uint32_t, Outstanding> outstanding_;  // by order number
  uint32_t next_order_ = 1;
  Nanoseconds last_heard_ = 0;
  EventLoop::TimerId repeat_timer_{}, orphan_timer_{}, kill_timer_{};
  Nanoseconds orphans_until_ = kNever;  // then TERM, and a second later KILL
  bool orphans_termed_ = false;
};

}  // namespace preforkd
