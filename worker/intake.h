// How a worker comes by its connections, one after the other: the worker's half of everything. Used by the worker
// itself (worker/worker.h) and by a program that accepts by itself (worker/libpreforkd.cc). The states are in
// shm/worker_state.h, the protocol with the supervisor in worker/seat.h.
//
// Signals (worker/signals.h). SIGUSR1 (nudge; SIGURG for programs) is blocked outside the wait, so that a worker with a
// connection in hand never sees it; it only ends the wait. SIGUSR2 (the supervisor died) is not: see below. SIGTERM is
// never blocked, so that a stuck worker can be ended: with an order for the connection in hand, or without
// a supervisor, the worker dies of it at once; from anybody else it means "leave when you are done".
//
// A program is nudged with SIGURG because that is ignored by default: a nudge that is sent to an idle
// worker and arrives when it has just become a program does nothing. SIGUSR1 would kill the program. To a
// program that accepts by itself it is blocked from before its exec on, so that threads that it starts before
// its first accept inherit that, and the signal is left for the one that waits. (So is SIGUSR2, until then.) What was sent before the first
// accept stays pending, and ends the first wait; what it was about was looked at before.
//
// On trial (daemon/trial.h) it is not registered for wake-ups, and takes no connection: it waits for signals
// alone. The supervisor takes the mark away and then nudges: whoever saw the mark gets the nudge in its wait,
// where alone it is not blocked. Nudged for another reason it looks at the mark again. Once it has seen that it
// may accept it never looks again: nobody goes back on trial, and a hostile worker that sets the mark would
// have the others wait for a nudge that nobody sends.
//
// The supervisor killed at any moment: the parent-death signal ends the wait, and the worker exits; a busy
// one finishes its connection and looks at getppid() before it would accept the next one. It may be busy for hours,
// and the daemon be dead, too: with its listen sockets it would hold the pool's addresses, where nobody accepts any more and
// nobody else could listen. So the signal's handler gives them up, in the midst of whatever the worker does
// (SA_RESTART: of a handler's calls those alone are interrupted that never go on, as sleep and poll, and once). It
// closes them and does no more: if only the supervisor is dead, the next one accepts on the daemon's. The worker's epoll
// instance may keep a registration of a socket that others have open, which takes no wake-up from anybody: nobody waits
// there. In the worker's own code any step may find them gone, and fails; it sees that it is an orphan then. Between its
// look at getppid() and its wait the signal would be lost: so the handler nudges, and that is blocked.
//   What the signal's handler has noted would not do instead of that look: a thread of a handler's may be the one that takes
// the signal, and this one be back from its wait before; and who changes its user (a handler may) gets none any more.
//   Who is in `start` yet dies of it (SIGTERM). A program that serves one connection has no listen sockets. A process that
// a handler has forked, and that executes nothing, keeps what it has.
#pragma once

#include <preforkd/handler.h>
#include <signal.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "conf/settings.h"
#include "shm/mapping.h"
#include "worker/acceptor.h"
#include "worker/gate.h"
#include "worker/seat.h"

namespace preforkd {

// What all workers of a pool have in common, as far as accepting goes; borrowed.
struct IntakePlan {
  const PoolSettings& settings;
  const shm::Mapping& mapping;
  const std::vector<int>& listen_sockets;
  pid_t supervisor;
  GateRules gate;

  int nudge_signal() const { return settings.is(ServerKind::kHandler) ? SIGUSR1 : SIGURG; }
};

// One in a process.
class Intake {
 public:
  Intake(const IntakePlan& plan, uint32_t slot);
  ~Intake();  // signals come until the process has ended
  Intake(const Intake&) = delete;
  Intake& operator=(const Intake&) = delete;
  // Null in a supervisor.
  static Intake* of_this_process();

  // One of the two, first of all. A forked worker has the handlers of install_inherited_signals(), and all signals
  // blocked. `until_started`: what a supervisor's death sends it before that; 0: what it does later.
  void take_over_signals(int until_started);
  // A program that was executed has none of that. Its other signals stay as they are. Throws SysError.
  void install_signals();

  // Takes a start ticket. False: it is to leave before it has begun.
  bool wait_to_start();
  void started();  // it is idle from here on

  // The next one, now or later; nothing when it is time to leave: then the slot says so, and there is no other.
  // Throws SysError when it cannot accept at all.
  std::optional<Accepted> next();

  // The same for who waits by other means: one look, which does not wait for a connection (a PROXY header it does wait for).
  struct Look {
    enum Until {
      kTaken,     // there is a connection
      kOver,      // it is time to leave: as with next()
      kReadable,  // wait_descriptor() is, or a signal comes
      kSignal,    // on trial: until a signal comes
      kPause,     // out of descriptors or memory: kBackOff, or until a signal comes
    } until;
    std::optional<Accepted> connection = std::nullopt;
  };
  static constexpr Nanoseconds kBackOff = 50 * kMillisecond;
  Look look();
  // What is readable while a connection waits; it wakes all that wait by it. After a look() that said so. Throws SysError.
  int wait_descriptor();
  // As next() does: one of those who wait wakes for a connection. False: a signal has ended it.
  bool wait();
  void wait_for_signal(Nanoseconds most) const;
  // The signals that its waits let through, taken out of `blocked`.
  sigset_t let_through(sigset_t blocked) const;
  static bool is_nudged();           // since the last look: the wait was ended by that
  void begin(Accepted& connection);  // it is in hand, and counted; its addresses are complete
  preforkd_connection describe(const Accepted& connection) const;
  void done(
      Outcome outcome);  // before it is closed: a client that has seen the end finds it counted

  // What whoever serves may say meanwhile (preforkd/handler.h). Without a connection the first two do nothing.
  void note(std::string_view text);
  void extend(Nanoseconds until);
  void recycle();

  void give_up_listen_sockets() const;  // in a signal's handler

 private:
  bool is_spent();
  bool is_worn_out();
  bool must_leave() const;
  Look look_for_one();
  std::optional<Accepted> take_leave();
  void register_if_possible();
  std::optional<Accepted> last_accept(bool leaving, uint64_t from);
  void tell_shortage();

  const IntakePlan& plan_;
  Seat seat_;
  Gate gate_;
  Acceptor acceptor_;
  sigset_t unblocked_{};  // in the wait
  int death_signal_ = 0;  // what the supervisor's death sends now
  const Nanoseconds began_at_ = monotonic_now_of_kernel();
  uint64_t recycle_from_ = 0;  // connections after which it asks to be replaced; 0 = never
  uint64_t recycle_at_ = 0;    // connections after which it leaves, replaced or not
  bool on_trial_;              // until it has seen that it is not
  bool worn_out_ = false;      // whoever serves has said so
  bool short_told_ = false;
};

}  // namespace preforkd
