#include "supervisor/lingering.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/refuse_rights.h"
#include "base/standstill.h"
#include "worker/client_end.h"

namespace preforkd {
namespace {

constexpr unsigned kStandsStill = 3;  // seconds: a turn takes milliseconds
constexpr int kMostUnwatched = 4096;
constexpr uint32_t kOwnDescriptors = 16;
constexpr size_t kAtATime = 64 * 1024;
constexpr int kReadsInARow = 8;  // before others have their turn
constexpr int kSupervisorDied = SIGUSR1;

volatile sig_atomic_t told_to_leave = 0, supervisor_died = 0;

// Room for so many besides its own; as many of them as there is room for.
uint32_t make_room_for(uint32_t descriptors) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return 0;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, descriptors + kOwnDescriptors);
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  const rlim_t room = limit.rlim_cur > kOwnDescriptors ? limit.rlim_cur - kOwnDescriptors : 0;
  return static_cast<uint32_t>(std::min<rlim_t>(room, descriptors));
}

bool is_ended(int end) {
  pollfd state{end, POLLRDHUP, 0};  // (whoever has the other end can shut it down)
  return poll(&state, 1, 0) == 1;
}

bool watch(int epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

Received Received::from(int end) {
  Received received;
  iovec part{&received.message, sizeof received.message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr whole{};
  whole.msg_iov = &part;
  whole.msg_iovlen = 1;
  whole.msg_control = control;
  // Not CMSG_SPACE: its padding has room for a second descriptor, which nobody would close.
  whole.msg_controllen = CMSG_LEN(sizeof(int));
  ssize_t size;
  do size = recvmsg(end, &whole, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  if (size < 0) return received;
  received.kind = size == 0 && is_ended(end) ? kEnd : kMessage;  // (or an empty message)
  for (cmsghdr* c = CMSG_FIRSTHDR(&whole); c; c = CMSG_NXTHDR(&whole, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int descriptor;
    std::memcpy(&descriptor, CMSG_DATA(c), sizeof descriptor);
    received.connection.reset(descriptor);
  }
  if (size != sizeof received.message) received.message = {};
  return received;
}

void make_close_not_wait(int connection) {
  linger wish{};
  socklen_t size = sizeof wish;
  if (getsockopt(connection, SOL_SOCKET, SO_LINGER, &wish, &size) < 0) return;
  if (!wish.l_onoff || wish.l_linger == 0) return;
  wish.l_onoff = 0;
  setsockopt(connection, SOL_SOCKET, SO_LINGER, &wish, size);
}

Lingering::Lingering(int first, int second, pid_t supervisor, const LingeringBounds& bounds)
    : first_(first),
      second_(second),
      supervisor_(supervisor),
      bounds_(bounds),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      thrown_away_(std::make_unique_for_overwrite<char[]>(kAtATime)),
      most_(make_room_for(bounds.connections)) {
  struct sigaction action {};
  action.sa_handler = [](int) { told_to_leave = 1; };
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = [](int) { supervisor_died = 1; };
  sigaction(kSupervisorDied, &action, nullptr);
  // Who stands still in a call, as in the close of what a client has sent along, does not end by itself.
  signal(SIGALRM, SIG_DFL);
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigprocmask(SIG_UNBLOCK, &alarms, nullptr);
  prctl(PR_SET_PDEATHSIG, kSupervisorDied, 0, 0, 0);
  if (getppid() != supervisor_) supervisor_died = 1;
}

void Lingering::run() {
  now_ = monotonic_now();
  read_all_lent();
  if (!watch(epoll_.get(),
             first_)) {  // then what waits is closed; another closer comes when it is needed
    for (int i = 0; i < kMostUnwatched && receive(); ++i) {
    }
    return;
  }
  for (;;) {
    now_ = monotonic_now();
    if (supervisor_died && !is_on_its_own_) let_all_go();
    while (told_to_leave && receive()) {
    }
    if (now_ >= look_at_) look_at_times();
    if (is_done()) return;
    wait(look_at_);
  }
}

bool Lingering::is_done() const {
  return over_count_ == 0 && (nobody_sends_ || (told_to_leave && nothing_waits_));
}

// All signals are blocked but here.
void Lingering::wait(Nanoseconds until) {
  constexpr int kMost = 64;
  epoll_event events[kMost];
  sigset_t none;
  sigemptyset(&none);
  const Nanoseconds pause = until - std::min(until, now_);
  const int timeout = until == kNever ? -1 : static_cast<int>(pause / kMillisecond) + 1;
  alarm(0);
  const Nanoseconds began = now_;
  const int count = epoll_pwait(epoll_.get(), events, kMost, timeout, &none);
  alarm(kStandsStill);
  now_ = monotonic_now();
  if (const Nanoseconds stood = stood_still(began, until, now_); stood > 0) give_time(stood);
  bool some_wait = false, some_lent_wait = false;
  for (int i = 0; i < count; ++i) {
    const int fd = events[i].data.fd;
    some_wait |= fd == first_;
    some_lent_wait |= fd == second_;
    if (fd != first_ && fd != second_) read_on(fd);
  }
  // Last: what comes may have the number of one that was closed just now, and of which there was an event.
  for (int i = 0; some_wait && i < kMost && receive(); ++i) {
  }
  if (some_lent_wait) read_all_lent();
}

// One message; false: there is none.
bool Lingering::receive() {
  if (nobody_sends_) return false;
  Received received = Received::from(first_);
  nothing_waits_ = received.kind == Received::kNothing;
  nobody_sends_ = received.kind == Received::kEnd;
  if (nobody_sends_) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, first_, nullptr);
  if (received.kind != Received::kMessage) return false;
  switch (received.message.what) {
    case ClosingMessage::kOver:
      if (received.connection.is_open()) linger(std::move(received.connection));
      break;
    case ClosingMessage::kProgramEnded:
    case ClosingMessage::kProgramFailed:
      program_ended(received.message.pid, received.message.what == ClosingMessage::kProgramFailed);
      break;
    case ClosingMessage::kLookAtLent:
      read_all_lent();
      break;
  }
  return true;
}

// --- what is over --------------------------------------------------------------------------------

// For one more: of those that linger the one that has for longest goes.
bool Lingering::make_room() {
  if (over_count_ + lent_.size() < most_) return true;
  const Over* oldest = nullptr;
  for (const Over& each : over_)
    if (each.fd.is_open() && (!oldest || each.began_at < oldest->began_at)) oldest = &each;
  if (!oldest) return false;
  drop(oldest->fd.get());
  return true;
}

// Its client may have ended it by now: then it need not be watched.
void Lingering::linger(UniqueFd connection) {
  make_close_not_wait(connection.get());
  refuse_rights(connection.get());  // what is attached to what is thrown away would be closed here
  if (!make_room()) return;
  const int fd = connection.get();
  const auto index = static_cast<size_t>(fd);
  if (over_.size() <= index) over_.resize(index + 1);
  now_ = monotonic_now();  // of several in a turn one is the oldest, too
  over_[index] = {std::move(connection), 0, now_, now_};
  ++over_count_;
  read_on(fd);
  if (!over_[index].fd.is_open()) return;
  if (!watch(epoll_.get(), fd)) return drop(fd);
  look_at_ = std::min(look_at_, now_ + bounds_.look_each);
}

void Lingering::read_on(int fd) {
  Over& over = over_[static_cast<size_t>(fd)];
  for (int i = 0; i < kReadsInARow && over.fd.is_open(); ++i) {
    const ssize_t got = recv(fd, thrown_away_.get(), kAtATime, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return drop(fd);
    over.heard_at = now_;
    over.bytes += static_cast<uint64_t>(got);
    if (over.bytes > bounds_.bytes) return drop(fd);
  }
}

// Others may have copies: the kernel would not forget it by itself.
void Lingering::drop(int fd) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  over_[static_cast<size_t>(fd)] = {};
  --over_count_;
}

void Lingering::look_at_times() {
  const Nanoseconds silence = told_to_leave ? bounds_.silence_at_end : bounds_.silence;
  for (const Over& each : over_)
    if (each.fd.is_open() &&
        (now_ >= each.heard_at + silence || now_ >= each.began_at + bounds_.in_all))
      drop(each.fd.get());
  look_at_ = over_count_ > 0 ? now_ + bounds_.look_each : kNever;
}

// What nobody could send in, nor anybody read.
void Lingering::give_time(Nanoseconds length) {
  for (Over& each : over_) {
    each.began_at += length;
    each.heard_at += length;
  }
}

// --- what programs have --------------------------------------------------------------------------

void Lingering::take_lent(Received received) {
  const bool is_one = received.connection.is_open() && received.message.pid > 1;
  if (is_one && !is_on_its_own_ && make_room())
    lent_[received.message.pid] = std::move(received.connection);
}

void Lingering::read_lent(pid_t up_to) {
  for (;;) {
    Received received = Received::from(second_);
    if (received.kind != Received::kMessage) return;
    const pid_t pid = received.message.pid;
    take_lent(std::move(received));
    if (pid == up_to) return;
  }
}

// Of one who has ended it may have been said already, to a closer that died.
void Lingering::read_all_lent() {
  for (;;) {
    Received received = Received::from(second_);
    if (received.kind == Received::kEnd) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, second_, nullptr);
    if (received.kind != Received::kMessage) return;
    const pid_t pid = received.message.pid;
    take_lent(std::move(received));
    if (lent_.contains(pid) && kill(pid, 0) < 0 && errno == ESRCH) program_ended(pid, false);
  }
}

void Lingering::program_ended(pid_t pid, bool is_asked) {
  if (!lent_.contains(pid)) read_lent(pid);
  auto found = lent_.extract(pid);
  if (is_asked)
    Closing(first_).answer(pid,
                           !found.empty() && client_end(found.mapped().get()) != ClientEnd::kNot);
  if (found.empty()) return;
  UniqueFd connection = std::move(found.mapped());
  make_close_not_wait(connection.get());
  char first;
  const ssize_t got = recv(connection.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
  const bool nothing_comes = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
  if (nothing_comes || is_to_be_reset(connection.get())) return;
  const bool serves_on = kill(-pid, 0) == 0 || errno != ESRCH;
  if (!serves_on && shutdown(connection.get(), SHUT_WR) == 0) linger(std::move(connection));
}

void Lingering::let_all_go() {
  is_on_its_own_ = true;
  lent_.clear();
  if (second_ < 0) return;
  read_all_lent();
  watch(epoll_.get(), second_);
}

}  // namespace preforkd
