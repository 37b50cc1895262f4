#include "worker/worker.h"

#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/error.h"
#include "base/log.h"
#include "base/process_title.h"
#include "worker/host.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr int kSupervisorDied = SIGUSR2;
constexpr sigset_t kNoneBlocked{};
constexpr Nanoseconds kBackOff = 50 * kMillisecond;

// What the signal handlers need; there is one worker in a process.
struct {
  void (*term_in_supervisor)(int) = nullptr;
  const Seat* seat = nullptr;  // null: this is the supervisor
  pid_t supervisor = 0;
  int nudge_signal = SIGUSR1;
  volatile sig_atomic_t nudged = 0;
  volatile sig_atomic_t asked_to_leave = 0;
} signalled;

bool orphaned() { return system_call(SYS_getppid) != signalled.supervisor; }

void on_nudge(int) { signalled.nudged = 1; }

void on_term(int number) {
  if (!signalled.seat) return signalled.term_in_supervisor(number);
  int saved = errno;
  if (orphaned() || signalled.seat->must_end(signalled.seat->begun())) {
    signal(SIGTERM, SIG_DFL);  // installed with SA_NODEFER: not blocked here
    raise(SIGTERM);
  }
  signalled.asked_to_leave = 1;
  // Pending until the next wait, which it ends: no gap between looking at the flag and sleeping.
  kill(getpid(), signalled.nudge_signal);
  errno = saved;
}

void set_parent_death_signal(int number) {
  system_call(SYS_prctl, PR_SET_PDEATHSIG, number, 0, 0, 0);
}

// From the supervisor's signals to a worker's. All are blocked on entry.
void take_over_signals(const WorkerPlan& plan, const Seat& seat) {
  signalled.seat = &seat;
  signalled.supervisor = plan.supervisor;
  signalled.nudge_signal = plan.nudge_signal();
  signalled.nudged = 0;
  if (!plan.program)  // which resets them all when it is executed
    for (int number : {SIGCHLD, SIGIO, SIGHUP, SIGINT, SIGQUIT}) set_to_default(number);
  // Set after the change of user, which clears it, and before the first look at getppid(). Until the worker
  // waits for connections it may wait for a start ticket, or run `start`: then TERM ends it.
  set_parent_death_signal(plan.has_start() ? SIGTERM : kSupervisorDied);
  block_exactly(signal_bit(SIGUSR1) | signal_bit(SIGURG) | signal_bit(kSupervisorDied));
}

uint64_t random_below(uint64_t bound) {
  if (bound == 0) return 0;
  // splitmix64's finaliser: no more is needed to keep workers from leaving together.
  uint64_t x = monotonic_now() ^ static_cast<uint64_t>(getpid()) << 32;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return (x ^ x >> 31) % bound;
}

}  // namespace

void install_inherited_signals(void (*on_term_in_supervisor)(int)) {
  signalled.term_in_supervisor = on_term_in_supervisor;
  struct sigaction action {};
  action.sa_handler = on_nudge;
  for (int number : {SIGUSR1, SIGURG, kSupervisorDied}) sigaction(number, &action, nullptr);
  action.sa_handler = on_term;
  action.sa_flags = SA_NODEFER;
  sigaction(SIGTERM, &action, nullptr);
  // A client that hung up is an error of send(), not the end of a worker.
  signal(SIGPIPE, SIG_IGN);
}

Worker::Worker(const WorkerPlan& plan, uint32_t slot)
    : plan_(plan),
      seat_(plan.mapping, slot),
      gate_(plan.gate, plan.mapping, slot, seat_),
      acceptor_(plan.listen_sockets),
      on_trial_(seat_.is_on_trial()) {
  set_process_title(plan.title, plan.comm);
  take_over_signals(plan, seat_);
  // The supervisor is not dumpable; a worker may be, so that a handler's crash leaves a core.
  system_call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
  if (plan.is_limited) live_within(plan.settings.process.limits);
  if (plan.program) setpgid(0, 0);  // so that its children can be ended with it
  // ±10 %: it asks for its replacement within the last tenth, and has a tenth more to wait for it. Of
  // fewer than 10 connections the limit is exact.
  uint64_t limit = plan.settings.connections, tenth = limit / 10;
  recycle_at_ = limit + tenth;
  recycle_from_ = tenth ? limit - random_below(tenth + 1) : limit > 1 ? limit - 1 : limit;
}

int Worker::run() {
  host_works_for(seat_);
  if (plan_.has_start()) {
    if (!wait_to_start()) return 0;
    if (int code = plan_.handler->start()) {
      log_error("start returned " + std::to_string(code));
      return 1;
    }
    set_parent_death_signal(kSupervisorDied);  // from here on only the wait is interrupted
  }
  seat_.started(monotonic_now());
  while (auto connection = next_connection()) {
    serve(std::move(*connection));
    if (seat_.must_end(seat_.begun()) || is_worn_out() || seat_.is_one_too_many()) break;
  }
  if (!seat_.is_retiring()) seat_.retire(monotonic_now());
  if (plan_.handler) plan_.handler->stop();
  return 0;
}

// False if it is to leave before it has begun.
bool Worker::wait_to_start() {
  auto wanted = [this] { return !orphaned() && !seat_.must_leave() && !signalled.asked_to_leave; };
  while (wanted())
    if (seat_.wait_to_start()) return wanted();
  return false;
}

// The next one that waits, now or later; nothing when it is time to leave.
std::optional<Accepted> Worker::next_connection() {
  for (;;) {
    if (orphaned()) return std::nullopt;
    bool leaving = seat_.must_leave() || signalled.asked_to_leave;
    if (leaving) {
      // Who was not waiting for a connection had no wake-up that a last accept would have to honour.
      const bool waited = !seat_.is_busy() && acceptor_.is_registered();
      uint64_t from = waited ? Acceptor::kAll : seat_.still_accepts_from(monotonic_now());
      return from ? last_accept(true, from) : std::nullopt;
    }
    if (on_trial_ && (on_trial_ = seat_.is_on_trial())) {
      wait_for_verdict();
      continue;
    }
    if (auto connection = acceptor_.try_accept()) {
      if (gate_.lets_in(*connection)) return connection;
      continue;
    }
    if (int error = acceptor_.broken()) throw SysError("accept", error);
    if (seat_.is_busy()) go_idle();
    if (acceptor_.short_of()) {
      back_off();
      continue;
    }
    short_told_ = false;
    wait();
    if (!signalled.nudged) continue;
    signalled.nudged = 0;
    if (!orphaned() && !seat_.must_leave() && !signalled.asked_to_leave && seat_.may_retire())
      return last_accept(false, Acceptor::kAll);
  }
}

// No wake-up may leave with this worker: unregistered first, it looks once more.
std::optional<Accepted> Worker::last_accept(bool leaving, uint64_t from) {
  acceptor_.unregister();
  seat_.retire(monotonic_now());
  auto connection = acceptor_.try_accept(from);
  while (connection && !gate_.lets_in(*connection)) {  // which may have taken seconds
    if (orphaned()) return std::nullopt;
    if (from != Acceptor::kAll && !(from = seat_.still_accepts_from(monotonic_now())))
      return std::nullopt;
    connection = acceptor_.try_accept(from);
  }
  if (connection && !leaving) acceptor_.register_for_wake();
  return connection;
}

void Worker::go_idle() { seat_.idle(monotonic_now()); }

void Worker::wait_for_verdict() {
  if (seat_.is_busy()) go_idle();
  ppoll(nullptr, 0, nullptr, &kNoneBlocked);
  signalled.nudged = 0;
}

void Worker::wait() { acceptor_.wait(kNoneBlocked, -1); }

// Out of descriptors or memory: the connection stays in the queue, and epoll would return at once.
void Worker::back_off() {
  if (!short_told_)
    log_warning("accept: " + std::string(std::strerror(acceptor_.short_of())) +
                "; trying again every 50 ms");
  short_told_ = true;
  seat_.refused();
  timespec pause = to_timespec(kBackOff);
  ppoll(nullptr, 0, &pause, &kNoneBlocked);
}

void Worker::serve(Accepted connection) {
  if (connection.local.length == 0) connection.local = local_address(connection.fd.get());
  shm::PeerWords peer = shm::pack_peer(connection.peer.get());
  if (connection.peer.storage.ss_family == AF_UNIX) {
    ucred who{};
    socklen_t size = sizeof who;
    getsockopt(connection.fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &size);
    peer = shm::pack_unix_peer(static_cast<uint32_t>(who.pid), who.uid);
  }
  seat_.begin(monotonic_now(), peer);
  if (plan_.program) {
    set_parent_death_signal(0);  // it would survive the exec
    std::string reason = plan_.program->become(connection, plan_.nudge_signal());
    seat_.done(monotonic_now(), false);
    throw std::runtime_error(reason);  // a worker that cannot become its program counts as crashed
  }
  // See DESIGN: from here on the kernel would walk past hundreds of busy registrations at each connection.
  constexpr uint32_t kManyBusy = 256;
  if (seat_.busy_seen() >= kManyBusy) acceptor_.unregister();
  if (handler_is_done()) seat_.ask_for_recycling();

  preforkd_connection c{
      sizeof c,      connection.fd.get(),    connection.peer.get(),  connection.peer.length,
      seat_.begun(), connection.local.get(), connection.local.length};
  bool served = plan_.handler->serve(c) == 0;
  // Before the close: a client that has seen its connection end finds it counted.
  seat_.done(monotonic_now(), served);
  gate_.left();
}

bool Worker::is_worn_out() {
  if (handler_is_done()) return true;
  if (recycle_at_ == 0 || seat_.begun() < recycle_from_) return false;
  if (plan_.settings.min_age && monotonic_now() < forked_at_ + plan_.settings.min_age) return false;
  seat_.ask_for_recycling();
  return seat_.begun() >= recycle_at_;
}

}  // namespace preforkd
