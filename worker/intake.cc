#include "worker/intake.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr int kSupervisorDied = SIGUSR2;
// Beyond, the kernel would walk past hundreds of busy registrations at each connection.
constexpr uint32_t kManyBusy = 256;

// What the signal handlers and the host's functions need; there is one worker in a process. In one place: each
// page that a worker writes to is copied for it.
struct alignas(64) {
  Intake* intake = nullptr;
  void (*term_in_supervisor)(int) = nullptr;
  const Seat* seat = nullptr;  // null: this is the supervisor, or a worker at its end
  pid_t supervisor = 0;
  int nudge_signal = SIGUSR1;
  volatile sig_atomic_t nudged = 0;
  volatile sig_atomic_t asked_to_leave = 0;
} signalled;

bool orphaned() { return system_call(SYS_getppid) != signalled.supervisor; }

void on_nudge(int) { signalled.nudged = 1; }

void nudge_oneself() {
  // Pending until the next wait, which it ends: no gap between looking at the flag and sleeping.
  kill(getpid(), signalled.nudge_signal);
}

// At any moment, within a handler's code, too. From anybody but the kernel it means nothing.
void on_supervisor_death(int) {
  signalled.nudged = 1;
  if (!signalled.seat || !orphaned()) return;
  const int saved = errno;
  signalled.intake->give_up_listen_sockets();
  nudge_oneself();
  errno = saved;
}

void on_term(int number) {
  if (!signalled.seat) return signalled.term_in_supervisor(number);
  int saved = errno;
  if (orphaned() || signalled.seat->must_end(signalled.seat->begun())) {
    set_to_default(SIGTERM);  // installed with SA_NODEFER: not blocked here
    raise(SIGTERM);
  }
  signalled.asked_to_leave = 1;
  nudge_oneself();
  errno = saved;
}

// An orphan's listen sockets may be gone in the midst of it; that it is one, it sees next.
template <class Step>
void unless_orphaned(Step step) {
  try {
    step();
  } catch (const SysError&) {
    if (!orphaned()) throw;
  }
}

void set_parent_death_signal(int number) {
  system_call(SYS_prctl, PR_SET_PDEATHSIG, number, 0, 0, 0);
}

void become_worker(const IntakePlan& plan, const Seat& seat) {
  signalled.seat = &seat;
  signalled.supervisor = plan.supervisor;
  signalled.nudge_signal = plan.nudge_signal();
  signalled.nudged = 0;
}

uint64_t random_below(uint64_t bound) {
  if (bound == 0) return 0;
  // splitmix64's finaliser: no more is needed to keep workers from leaving together.
  uint64_t x = monotonic_now() ^ static_cast<uint64_t>(getpid()) << 32;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return (x ^ x >> 31) % bound;
}

void install(std::initializer_list<int> nudges) {
  struct sigaction action {};
  action.sa_handler = on_nudge;
  for (int number : nudges) sigaction(number, &action, nullptr);
  action.sa_handler = on_term;
  action.sa_flags = SA_NODEFER;
  sigaction(SIGTERM, &action, nullptr);
  // Whatever it meets goes on, where the kernel can do that.
  action.sa_handler = on_supervisor_death;
  action.sa_flags = SA_RESTART;
  sigaction(kSupervisorDied, &action, nullptr);
}

}  // namespace

void install_inherited_signals(void (*on_term_in_supervisor)(int)) {
  signalled.term_in_supervisor = on_term_in_supervisor;
  install({SIGUSR1, SIGURG});
  // A client that hung up is an error of send(), not the end of a worker.
  signal(SIGPIPE, SIG_IGN);
}

Intake::Intake(const IntakePlan& plan, uint32_t slot)
    : plan_(plan),
      seat_(plan.mapping, slot),
      gate_(plan.gate, plan.mapping, slot, seat_),
      acceptor_(plan.listen_sockets),
      on_trial_(seat_.is_on_trial()) {
  signalled.intake = this;
  seat_.claim(getpid());
  // ±10 %: it asks for its replacement within the last tenth, and has a tenth more to wait for it. Of
  // fewer than 10 connections the limit is exact.
  uint64_t limit = plan.settings.connections, tenth = limit / 10;
  recycle_at_ = limit + tenth;
  recycle_from_ = tenth ? limit - random_below(tenth + 1) : limit > 1 ? limit - 1 : limit;
}

Intake::~Intake() {
  signalled.seat = nullptr;
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

Intake* Intake::of_this_process() { return signalled.intake; }

void Intake::take_over_signals(int until_started) {
  become_worker(plan_, seat_);
  // Set after the change of user, which clears it, and before the first look at getppid().
  set_parent_death_signal(death_signal_ = until_started ? until_started : kSupervisorDied);
  block_exactly(signal_bit(SIGUSR1) | signal_bit(SIGURG));
}

void Intake::install_signals() {
  become_worker(plan_, seat_);
  sigset_t ours, before;
  sigemptyset(&ours);
  sigaddset(&ours, plan_.nudge_signal());
  if (int error = pthread_sigmask(SIG_BLOCK, &ours, &before))
    throw SysError("block signals", error);
  install({plan_.nudge_signal()});
  unblocked_ = let_through(before);
  sigset_t any_time;
  sigemptyset(&any_time);
  sigaddset(&any_time, SIGTERM);
  sigaddset(&any_time, kSupervisorDied);
  pthread_sigmask(SIG_UNBLOCK, &any_time, nullptr);
}

sigset_t Intake::let_through(sigset_t blocked) const {
  for (int number : {plan_.nudge_signal(), kSupervisorDied, SIGTERM}) sigdelset(&blocked, number);
  return blocked;
}

// False if it is to leave before it has begun. (While its generation drains, it may be for those who wait yet.)
bool Intake::wait_to_start() {
  auto wanted = [this] {
    return !orphaned() && (!must_leave() || seat_.still_accepts_from(monotonic_now()));
  };
  while (wanted())
    if (seat_.wait_to_start()) return wanted();
  return false;
}

void Intake::started() {
  if (death_signal_ != kSupervisorDied) set_parent_death_signal(kSupervisorDied);
  seat_.started(monotonic_now_of_kernel());
}

std::optional<Accepted> Intake::next() {
  for (;;) {
    Look now = look();
    if (now.until == Look::kTaken) return std::move(now.connection);
    if (now.until == Look::kOver) return std::nullopt;
    if (now.until == Look::kReadable)
      wait();
    else
      wait_for_signal(now.until == Look::kPause ? kBackOff : kNever);
  }
}

Intake::Look Intake::look() {
  // (Who has waited since leaves by a last accept.)
  Look now = seat_.is_busy() && is_spent() ? Look{Look::kOver} : look_for_one();
  if (now.until == Look::kOver && !seat_.is_retiring()) seat_.retire(monotonic_now());
  return now;
}

int Intake::wait_descriptor() {
  acceptor_.register_for_wake();
  return acceptor_.descriptor();
}

bool Intake::wait() {
  bool has_waited = true;
  unless_orphaned([&] { has_waited = acceptor_.wait(unblocked_, -1); });
  return has_waited;
}

void Intake::wait_for_signal(Nanoseconds most) const {
  const timespec time = to_timespec(most);
  ppoll(nullptr, 0, most == kNever ? nullptr : &time, &unblocked_);
}

bool Intake::is_nudged() { return signalled.nudged != 0; }

// After a connection: it leaves without looking for another.
bool Intake::is_spent() {
  const uint64_t begun = seat_.begun();
  return begun > 0 && (seat_.must_end(begun) || is_worn_out() || seat_.is_one_too_many());
}

bool Intake::is_worn_out() {
  if (worn_out_) {
    seat_.ask_for_recycling();
    return true;
  }
  if (recycle_at_ == 0 || seat_.begun() < recycle_from_) return false;
  const Nanoseconds min_age = plan_.settings.min_age;
  if (min_age && monotonic_now() < began_at_ + min_age) return false;
  seat_.ask_for_recycling();
  return seat_.begun() >= recycle_at_;
}

// Descriptor 2 takes their places: no number comes to mean what a thread of the handler's has opened meanwhile, and is
// accepted from. The daemon's own, and its next supervisor's, listen on.
void Intake::give_up_listen_sockets() const {
  for (const int fd : plan_.listen_sockets)
    if (system_call(SYS_dup3, 2, fd, O_CLOEXEC) < 0) system_call(SYS_close, fd);
}

bool Intake::must_leave() const { return seat_.must_leave() || signalled.asked_to_leave; }

Intake::Look Intake::look_for_one() {
  const auto all = [](std::optional<Accepted> taken) {
    return taken ? Look{Look::kTaken, std::move(taken)} : Look{Look::kOver};
  };
  bool nudged = std::exchange(signalled.nudged, 0) != 0;
  for (;;) {
    if (orphaned()) return {Look::kOver};
    if (must_leave()) return all(take_leave());
    if (on_trial_ && (on_trial_ = seat_.is_on_trial())) {
      if (seat_.is_busy()) seat_.idle(monotonic_now());
      return {Look::kSignal};
    }
    if (std::exchange(nudged, false) && acceptor_.is_registered() && seat_.may_retire())
      return all(last_accept(false, Acceptor::kAll));
    auto connection = acceptor_.try_accept();
    if (connection && gate_.lets_in(*connection)) return all(std::move(connection));
    if (connection) continue;
    if (int error = acceptor_.broken()) {
      if (orphaned()) return {Look::kOver};
      throw SysError("accept", error);
    }
    if (seat_.is_busy()) seat_.idle(monotonic_now());
    if (!acceptor_.short_of()) break;
    tell_shortage();
    return {Look::kPause};
  }
  short_told_ = false;
  return {Look::kReadable};
}

// Who was not waiting for a connection had no wake-up that a last accept would have to honour.
std::optional<Accepted> Intake::take_leave() {
  const bool waited = !seat_.is_busy() && acceptor_.is_registered();
  const uint64_t from = waited ? Acceptor::kAll : seat_.still_accepts_from(monotonic_now());
  return from ? last_accept(true, from) : std::nullopt;
}

// Else wait() tries again, with no client in hand.
void Intake::register_if_possible() {
  try {
    acceptor_.register_for_wake();
  } catch (const SysError&) {
  }
}

// No wake-up may leave with this worker: unregistered first, it looks once more.
std::optional<Accepted> Intake::last_accept(bool leaving, uint64_t from) {
  acceptor_.unregister();
  seat_.retire(monotonic_now());
  for (;;) {
    auto connection = acceptor_.try_accept(from);
    if (connection && gate_.lets_in(*connection)) {  // which may have taken seconds
      if (!leaving) register_if_possible();
      return connection;
    }
    if (!connection) {
      // Others, forked for who waits yet, would not have more descriptors either.
      if (!acceptor_.short_of() || !seat_.still_accepts_from(monotonic_now())) return std::nullopt;
      tell_shortage();
      wait_for_signal(kBackOff);
    }
    if (orphaned()) return std::nullopt;
    if (from != Acceptor::kAll && !(from = seat_.still_accepts_from(monotonic_now())))
      return std::nullopt;
  }
}

// Out of descriptors or memory: the connection stays in the queue, and epoll would return at once.
void Intake::tell_shortage() {
  if (!std::exchange(short_told_, true))
    log_warning("accept: " + std::string(std::strerror(acceptor_.short_of())) +
                "; trying again every 50 ms");
  seat_.refused();
}

void Intake::begin(Accepted& connection) {
  if (connection.local.length == 0) connection.local = local_address(connection.fd.get());
  shm::PeerWords peer = shm::pack_peer(connection.peer.get());
  if (connection.peer.storage.ss_family == AF_UNIX) {
    ucred who{};
    socklen_t size = sizeof who;
    getsockopt(connection.fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &size);
    peer = shm::pack_unix_peer(static_cast<uint32_t>(who.pid), who.uid);
  }
  seat_.begin(monotonic_now(), peer);
  if (seat_.busy_seen() >= kManyBusy) acceptor_.unregister();
  if (worn_out_) seat_.ask_for_recycling();
}

preforkd_connection Intake::describe(const Accepted& connection) const {
  return {sizeof(preforkd_connection), connection.fd.get(), connection.peer.get(),
          connection.peer.length,      seat_.begun(),       connection.local.get(),
          connection.local.length};
}

void Intake::done(Outcome outcome) {
  seat_.done(monotonic_now(), outcome);
  gate_.left();
}

void Intake::note(std::string_view text) {
  if (seat_.is_serving()) seat_.note(text);
}

void Intake::extend(Nanoseconds until) {
  if (seat_.is_serving()) seat_.extend(until);
}

void Intake::recycle() {
  worn_out_ = true;
  // Before its first connection: when that is there. Earlier, it would be replaced unused.
  if (seat_.is_serving()) seat_.ask_for_recycling();
}

}  // namespace preforkd
