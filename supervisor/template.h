// The template of a pool with `preload`, as its supervisor has it: a program that was started once, stands at its fork point
// (template/point.h), and makes workers on order, which are the supervisor's own children. One at a time; who dies is
// followed by another, after a pause that grows while none comes to its point. Workers outlive their template.
//
//   (none) ──due──▶ starting ──says that it stands──▶ standing ⇄ at work on an order
//      ▲               │ cannot, ended, late              │ ended, late, stopped, says what nobody asked
//      └───────────────┴──────────────────────────────────┘
//
// It is the pool's user, and its word counts for nothing but its own state. An order names slots that were made ready
// (Scoreboard::prepare) and count as workers that start: so there are never more than `max`, whatever is answered. What it
// made is read from the slots, where the kernel has written it (template/sibling.h), and believed of children of this
// process that are nothing else (Workforce::take_over_newborns). What else it forks is as what any worker forks.
//
// When it has ended, and before it is reaped, while its number is its own, its process group is ended: what the program has
// started with it. Its workers lead groups of their own, or are put there first.
//
// SIGKILL of the supervisor: it dies (PR_SET_PDEATHSIG), and reads the channel's end if that was lost with a change of user.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/standstill.h"
#include "ipc/template_messages.h"
#include "shm/scoreboard.h"
#include "worker/worker.h"

namespace preforkd {

class Template {
 public:
  // `before_exec` runs in its process first of all: it lets go of what only the supervisor may hold.
  Template(const WorkerPlan& plan, shm::Scoreboard& board, const Standstills& standstills,
           std::function<void()> before_exec);
  ~Template() { stop(); }
  Template(const Template&) = delete;
  Template& operator=(const Template&) = delete;

  bool is_configured() const { return plan_.settings.preload; }
  // It takes an order now.
  bool is_free() const { return state_ == State::kStanding && !is_at_work_ && !ends_since_; }
  bool is_standing() const { return state_ == State::kStanding; }
  pid_t pid() const { return pid_; }

  // In each turn: starts one that is due, reads what it says, ends it when it is late. Returns when to call it again.
  Nanoseconds look(Nanoseconds now);
  // At most TemplateOrder::kMostSlots, which are prepared. False: it is gone, and so is the order.
  bool order(const std::vector<uint32_t>& slots, Nanoseconds now);
  bool is_at_work() const { return is_at_work_; }  // on an order, which may be over
  // Its slots in which nobody has been found yet.
  const std::vector<uint32_t>& awaited() const { return awaited_; }
  void note_found(uint32_t slot, Nanoseconds now);
  // Whoever is not there yet will not come. Closed, it makes room for the next; the errno that ended it, or 0.
  bool is_order_over() const { return is_order_over_; }
  int close_order(Nanoseconds now);

  // Why there is none to fork from though there should be, or "".
  const std::string& trouble() const { return trouble_; }

  // It has ended, is not reaped, and its workers lead their own groups: whoever else is in its group is ended.
  void end_group() const;
  // Called for each child that has changed: whether it was this one.
  bool was(pid_t changed, int status, Nanoseconds now);
  void stop();                           // for good
  bool has_left(Nanoseconds now) const;  // or the kernel holds it

 private:
  using State = shm::TemplateState;

  bool is_over() const { return over_since_ != kNever; }
  void start(Nanoseconds now);
  [[noreturn]] void be_template(int channel) const;
  void receive(Nanoseconds now);
  void obey(const TemplateReport& report, Nanoseconds now);
  Nanoseconds end_if_late(Nanoseconds now);
  void end(const std::string& why, Nanoseconds now);
  void note_trouble();
  void publish(Nanoseconds now);
  std::string program_name() const;

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  const Standstills& standstills_;
  std::function<void()> before_exec_;
  UniqueFd channel_;
  State state_ = State::kNone;
  pid_t pid_ = 0;
  Nanoseconds over_since_ = kNever;  // there will be no other
  bool is_at_work_ = false, is_order_over_ = false;
  int order_error_ = 0;
  uint32_t orders_ = 0;
  std::vector<uint32_t> awaited_;
  uint32_t failures_ = 0;         // in a row
  Nanoseconds start_at_ = 0;      // the next one
  Nanoseconds since_ = 0;         // of its state
  Nanoseconds waited_since_ = 0;  // for its point, or for the end of its order
  Nanoseconds stopped_at_ = 0;    // by a signal; 0: it runs
  Nanoseconds ends_since_ = 0;    // it was killed; 0: not by us
  std::string said_, trouble_;
  bool was_trouble_of_start_ = false;  // ... with coming to its point; else with its work
};

}  // namespace preforkd
