// The closer: one process for each generation, which ends those connections that a worker cannot end by a plain close
// (worker/closing.h). Forked by the supervisor, of which it keeps the memory that it had then and no descriptor but the
// closer's ends of the two pairs: no listen socket, no log, nothing that leads to the daemon. What it does is in
// supervisor/lingering.h.
//
// It is made when somebody first needs it: while there is none, a message in the first pair is a SIGIO to the supervisor.
// A pool whose clients end first, as those of line protocols do, has none, and pays nothing for it. (One of programs has.)
//
//   worker                                supervisor
//   sends a socket into the first pair    (there is no closer: O_ASYNC is set on its end)
//                                         SIGIO: the next turn looks, takes O_ASYNC off, forks
// In each turn without a closer the supervisor looks into the pair after it has set O_ASYNC, so that nothing is
// overlooked that came while it was not set.
//   The closer killed at any moment: the connections that it had are closed as a plain close would have, and so lose
//   answers that were still under way, if their clients still sent; what is in the pairs waits for the next one, which is
//   forked at once, or, if this one was forked within the last second, a second after that. (So long the client of
//   a program that has ended does not see that.) When it cannot be forked, what is in the pairs is closed.
//   The closer stopped by a signal: it is killed.
//   The supervisor killed: the closer goes on for the workers that finish, and ends when nobody can send anything more and
//   it has nothing more; to the daemon it is one of the processes that the supervisor left behind.
//   The supervisor killed between O_ASYNC and the fork: nobody takes what is in the pair, and it is closed with the last
//   worker: a worker that knows of no supervisor has finished by then.
//
// A drain, or a stop, is over when the closer has nothing more, within the drain's own time; told by SIGTERM, it waits
// 1 s, and not 5, for who is silent. A stop at once kills it.
//
// It runs as the pool's user, and believes what it is sent as little as it must: a hostile worker can have it hold
// descriptors, which are bounded, or stand still in a close, and so harm its own pool's answers. It signals nobody.
#pragma once

#include <sys/types.h>

#include <array>
#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "worker/worker.h"

namespace preforkd {

// The supervisor's hold on that process.
class Closer {
 public:
  // `before_work` runs in the child first of all: it lets go of what only the supervisor may hold.
  Closer(const WorkerPlan& plan, ClosingPairs& pairs, std::function<void()> before_work);
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  // Which nobody else may keep; -1: there is none.
  std::array<int, 2> ends() const { return {first_.get(), second_.get()}; }
  // The supervisor has reaped it. True: it was `in_question` whether its client had ended the connection, and it had.
  bool program_ended(pid_t pid, bool in_question);
  // In each turn: forks it if it is needed and not there. Returns when to call it again, if nothing happens before.
  Nanoseconds look(Nanoseconds now);
  // Called when nobody is left who could send anything. True: it has ended, or will not. After `until` it is killed.
  bool has_left(Nanoseconds now, Nanoseconds until);
  void stop();
  // Called for each child that has changed: whether it was this one.
  bool was(pid_t changed, int status);
  bool is(pid_t pid) const { return pid_ != 0 && pid == pid_; }

 private:
  bool is_wanted() const;
  void tell_of_arrivals(bool on);
  void close_what_waits() const;
  void tell_of_ends();
  [[noreturn]] void work();

  const WorkerPlan& plan_;
  UniqueFd first_, second_;
  std::function<void()> before_work_;
  std::vector<pid_t> untold_;  // programs that have ended, when there was no room to say so
  pid_t pid_ = 0;
  bool tells_ = false;  // O_ASYNC is set
  bool told_to_leave_ = false;
  Nanoseconds fork_again_at_ = 0, killed_at_ = kNever;
  Nanoseconds ask_again_at_ = 0;  // it has not answered
};

}  // namespace preforkd
