// The supervisor's workers as processes: forks them, signals them, reaps them, and knows for each what it
// was told. Everything that decides about a worker's fate is kept here, in private memory; of the shared
// slot it believes only what can hurt nobody but this pool's figures.
//
// Pids without pidfds: these are our own children, only we reap them, and a pid cannot be used again before
// that; so kill(pid) between fork and reap hits the worker and nobody else. (A pidfd each would be copied
// into, and closed by, every worker that is forked.)
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <array>
#include <functional>
#include <memory_resource>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/standstill.h"
#include "shm/scoreboard.h"
#include "supervisor/breaker.h"
#include "supervisor/own_memory.h"
#include "worker/worker.h"

namespace preforkd {

class Workforce {
 public:
  // `supervisors_own` are descriptors that its workers close: two lead to the daemon, two from them to the closer.
  // `note_other` is told of each child that was reaped, or stopped, and is no worker: what else the supervisor has
  // forked. `program_ended` is told of each program, and asked whether its client had ended the connection.
  Workforce(const WorkerPlan& plan, shm::Scoreboard& board,
            const std::array<int, 4>& supervisors_own,
            std::function<void(pid_t, int status)> note_other,
            std::function<bool(pid_t, bool in_question)> program_ended);

  // --- fork ---
  // Forks up to `count`; returns how many, and the errno that stopped it (0: none).
  struct Forked {
    uint32_t count = 0;
    int error = 0;
  };
  [[gnu::hot]] Forked fork(uint32_t count, Nanoseconds now);  // (hot: beside what its child runs)

  // --- reap ---
  struct Death {
    bool only_stopped = false;  // it lives, but a signal stopped it
    pid_t pid = 0;
    shm::Ending ending{};
    bool abnormal = false;     // the log is told of it
    bool served = false;       // ... and it was serving a connection
    bool unannounced = false;  // it left by itself, without a last look for connections
    bool proves = false;       // a program that was executed: others can be
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
  uint32_t dismiss_recyclers(uint32_t most);  // the idle ones first
  // Marks who is worn out by age, or, if memory is `measured`, by size: they count as recycling from here
  // on. Never more than a tenth of the workers at a time. Returns when to look again.
  Nanoseconds mark_worn(bool measured, Nanoseconds now);
  bool recycles() const;  // somebody may wait for a replacement
  void nudge_idle(uint32_t count);
  void nudge_all();
  // Ends what is overdue (timeouts.start, timeouts.connection, orders given before) and returns when the
  // next thing will be. Needs nothing when nobody is starting, busy or being ended.
  Nanoseconds end_overdue(Nanoseconds now);
  // At the end of a wait (base/standstill.h). What is found is in nobody's time.
  Nanoseconds note_standstill(Nanoseconds began, Nanoseconds due, Nanoseconds now) {
    return standstills_.note(began, due, now);
  }
  void end_starters(
      Nanoseconds now);           // those who have not served anybody, when nobody comes any more
  void end_all(Nanoseconds now);  // whatever they do: TERM, and KILL a second later

  // --- starting ---
  // Posts start tickets for those who are through. True while more are starting than have tickets.
  bool hand_out_start_tickets(Nanoseconds now);
  void release_all_starters();
  // Since when somebody who came through its start at `from` or later (of programs: whose connection began then)
  // has been alive; kNever: there is nobody. As it says itself.
  Nanoseconds able_since(Nanoseconds from) const;

  // What the pool looks like, with those who were told to leave counted as retiring and those who wait to
  // be replaced as recycling.
  struct Headcount {
    shm::Counts counts;
    uint32_t recycling = 0;
    uint32_t going =
        0;  // of those retiring, who will be gone soon: all but those with a long connection
  };
  Headcount headcount(Nanoseconds now);

 private:
  struct Record {
    pid_t pid = 0;  // 0: no worker in this slot
    Nanoseconds forked_at = 0;
    Nanoseconds old_at = kNever;             // when it is worn out by age
    bool worn = false;                       // ... or by memory: to be replaced
    uint64_t measured_after = ~uint64_t{0};  // connections begun when its memory was measured last
    uint64_t slow_told = 0;                  // the connection number that the log has as slow
    uint64_t ending = 0;         // the connection number it was ordered to end, or kEndAny
    Nanoseconds kill_at = 0;     // when TERM is followed by KILL
    Nanoseconds stopped_at = 0;  // by a signal (SIGSTOP); 0: it runs
    Nanoseconds stood = 0;       // so long in all, while it had the connection `stood_with` in hand
    uint64_t stood_with = 0;
    bool told_stopped = false;  // the log has it: workers may stop each other as often as they like
    bool told_to_leave = false;
    Nanoseconds seen_at = 0;  // when it was first seen past `start`; 0: not yet
  };

  [[gnu::hot, gnu::noinline]] uint32_t fork_some(uint32_t wanted, Nanoseconds now, int& error);
  void note_forked(uint32_t slot, pid_t pid, Nanoseconds now);
  [[noreturn, gnu::hot]] void be_worker(uint32_t slot);
  void send(const Record& record, int signal_number) const;
  void tell_to_leave(uint32_t slot);
  bool in_hand(uint32_t slot, uint64_t number) const;
  bool may_have_grown(uint32_t slot);
  bool has_long_connection(uint32_t slot, Nanoseconds now) const;
  void note_ending(uint32_t slot, uint64_t number, Nanoseconds now);
  bool order_end(uint32_t slot, uint64_t number, Nanoseconds now);
  Nanoseconds check_start(uint32_t slot, Nanoseconds now);
  Nanoseconds check_retiring(uint32_t slot, Nanoseconds now);
  Nanoseconds check_connection(uint32_t slot, Nanoseconds now);
  void tell_slow(uint32_t slot, uint64_t number, Nanoseconds took);
  void note_stopped(Record& record, Nanoseconds at);
  void look_at_client(uint32_t slot, pid_t pid, int status) const;
  Outcome outcome_of(uint32_t slot, int status) const;
  void note_continued(uint32_t slot, Nanoseconds now);
  Death judge(uint32_t slot, pid_t pid, int status, const rusage& usage);
  Loss loss_of(uint32_t slot, const shm::Scoreboard::Last& last, const Death& death,
               bool was_program);
  template <class Visit>
  void each(Visit visit) const {  // visit(slot), for every live worker
    for (uint32_t slot = 0, seen = 0; slot < records_.size() && seen < board_.alive(); ++slot) {
      if (records_[slot].pid == 0) continue;
      ++seen;
      visit(slot);
    }
  }

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  const std::array<int, 4> supervisors_own_;
  std::function<void(pid_t, int status)> note_other_;
  std::function<bool(pid_t, bool in_question)> program_ended_;
  OwnMemory own_;
  std::pmr::unsynchronized_pool_resource own_pool_{&own_};
  std::pmr::vector<Record> records_;  // by slot
  std::pmr::unordered_map<pid_t, uint32_t> slot_of_{&own_pool_};
  uint32_t unstarted_ = 0;          // workers not yet seen past `start`
  uint32_t asked_ = 0;              // retire tickets that are out, as far as we know
  uint32_t told_ = 0;               // workers told to leave and not reaped
  uint32_t ending_ = 0;             // workers ordered to end and not reaped
  uint32_t stopped_ = 0;            // workers stopped by a signal
  uint32_t worn_ = 0;               // workers marked as worn out and not reaped
  bool someone_asked_ = false;      // a worker's slot says that it would like to be replaced
  Standstills standstills_;         // of this process, and with it of its workers
  Nanoseconds start_progress_ = 0;  // when a worker last came through `start`
};

}  // namespace preforkd
