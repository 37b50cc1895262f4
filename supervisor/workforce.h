// The supervisor's workers as processes: forks them, reaps them and judges how each has ended, nudges them, and hands out
// tickets. What is known of each stands in the WorkerTable, by which its deadlines and its recycling go, too.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "shm/scoreboard.h"
#include "supervisor/breaker.h"
#include "supervisor/template.h"
#include "supervisor/worker_deadlines.h"
#include "supervisor/worker_recycling.h"
#include "supervisor/worker_table.h"
#include "worker/worker.h"

namespace preforkd {

class Workforce {
 public:
  // `supervisors_own` are descriptors that its workers close: two lead to the daemon, two from them to the closer.
  // `note_other` is told of each child that was reaped, or stopped, and is no worker: what else the supervisor has
  // forked. `is_other`: whether it has. `program_ended` is told of each program, and asked whether its client had ended the connection.
  Workforce(const WorkerPlan& plan, shm::Scoreboard& board,
            const std::array<int, 4>& supervisors_own,
            std::function<void(pid_t, int status)> note_other, std::function<bool(pid_t)> is_other,
            std::function<bool(pid_t, bool in_question)> program_ended);

  // --- fork ---
  // Forks up to `count`; returns how many, and the errno that stopped it (0: none). Of a template so many are ordered.
  struct Forked {
    uint32_t count = 0;
    int error = 0;
  };
  [[gnu::hot]] Forked fork(uint32_t count, Nanoseconds now);  // (hot: beside what its child runs)
  // Of whoever a template has made by now: workers of ours. What has come of an order that is over, if one is.
  std::optional<Forked> take_over_newborns(Nanoseconds now);

  // --- reap ---
  struct Death {
    bool only_stopped = false;  // it lives, but a signal stopped it
    pid_t pid = 0;
    shm::Ending ending{};
    bool abnormal = false;     // the log is told of it
    bool served = false;       // ... and it was serving a connection
    bool unannounced = false;  // it left by itself, without a last look for connections
    // That others can serve: it has served somebody, or (a program) was executed.
    bool proves = false;
    std::string
        text;  // for the log: "killed by signal 11 (Segmentation fault) while serving ..."; or ""
    Loss loss{};  // for the breaker
  };
  // Nothing: nobody else has died, or was stopped; or `others` is 0, from which it takes one for each child that is no worker:
  // who has left a worker may fork faster than they are reaped.
  std::optional<Death> reap(Nanoseconds now, int& others);

  // --- orders to workers ---
  void retire_longest_idle(uint32_t count);  // retire tickets and nudges
  void take_back_tickets();
  void nudge_idle(uint32_t count);  // to look for a client; nobody leaves by it
  uint32_t stopped_idle() const;    // idle by their bits, but stopped by a signal: they take nobody
  void nudge_all();

  // --- starting ---
  // Posts start tickets for those who are through. True while more are starting than have tickets.
  bool hand_out_start_tickets(Nanoseconds now);
  void release_all_starters();
  // Since when somebody who came through its start at `from` or later (of programs: whose connection began then)
  // has been alive; kNever: there is nobody. As it says itself.
  Nanoseconds able_since(Nanoseconds from) const;

  Template& the_template() { return template_; }
  WorkerTable& table() { return table_; }
  WorkerDeadlines& deadlines() { return deadlines_; }
  WorkerRecycling& recycling() { return recycling_; }

 private:
  [[gnu::hot, gnu::noinline]] uint32_t fork_some(uint32_t wanted, Nanoseconds now, int& error);
  Forked order(uint32_t count, Nanoseconds now);
  uint32_t take_over(pid_t reaped, Nanoseconds now);
  void look_who_is_next(Nanoseconds now);
  bool is_newborn(pid_t pid, pid_t reaped) const;
  void note_forked(uint32_t slot, pid_t pid, Nanoseconds now);
  [[noreturn, gnu::hot]] void be_worker(uint32_t slot);
  void close_supervisors_own() const;
  void nudge_longest_idle(uint32_t count);
  Death bury(uint32_t slot, int status, const rusage& usage, Nanoseconds now);
  void pass_on_start_ticket(uint32_t slot) const;
  void look_at_client(uint32_t slot, pid_t pid, int status) const;
  Outcome outcome_of(uint32_t slot, int status) const;
  void note_continued(uint32_t slot, Nanoseconds now);
  Death judge(uint32_t slot, pid_t pid, int status, const rusage& usage);
  Loss loss_of(uint32_t slot, const shm::Scoreboard::Last& last, const Death& death,
               bool was_program);

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  const std::array<int, 4> supervisors_own_;
  std::function<void(pid_t, int status)> note_other_;
  std::function<bool(pid_t)> is_other_;
  std::function<bool(pid_t, bool in_question)> program_ended_;
  WorkerTable table_;
  Template template_;
  WorkerDeadlines deadlines_{plan_, board_, table_};
  WorkerRecycling recycling_{plan_, board_, table_};
  uint32_t asked_ = 0;  // retire tickets that are out, as far as we know
};

}  // namespace preforkd
