#include "interpose/listener.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/system_call.h"
#include "interpose/signals.h"
#include "template/interpreter.h"
#include "template/libc.h"
#include "template/point.h"
#include "template/threads.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

// Where another thread may have closed the connection by a way that is not seen: it is looked at.
constexpr Nanoseconds kLookAgain = 100 * kMillisecond;
constexpr short kReadable = POLLIN | POLLRDNORM;

// Never destroyed, as the worker is not.
struct {
  Listener* listener = nullptr;
  pid_t process = 0;  // whose it is
  DescriptorNumbers numbers;
} here;

void mark(std::initializer_list<int> fds, DescriptorKind kind) {
  for (int fd : fds) here.numbers.set(fd, kind);
}

// In the kernel's own words: a call that a signal has ended is begun anew if each handler that there is wants that.
bool has_handler_that_ends_calls() {
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action {};
    if (sigaction(number, nullptr, &action) < 0) continue;
    const bool is_ours =
        std::ranges::find(kProgramsWorkerSignals, number) != kProgramsWorkerSignals.end();
    const bool is_handled = action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN;
    if (is_handled && !is_ours && !(action.sa_flags & SA_RESTART)) return true;
  }
  return false;
}

sigset_t blocked_now() {
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, nullptr, &now);
  return now;
}

std::string program_name() {
  std::string name = "it";
  std::ifstream file("/proc/self/comm");
  std::getline(file, name);
  return name;
}

int milliseconds_of(Nanoseconds time) {
  constexpr Nanoseconds kMost = 1000 * kSecond;
  if (time == kNever) return -1;
  return static_cast<int>((std::min(time, kMost) + kMillisecond - 1) / kMillisecond);
}

}  // namespace

void copy_address(const SocketAddress& from, sockaddr* to, socklen_t* length) {
  if (!to || !length) return;
  std::memcpy(to, &from.storage, std::min(*length, from.length));
  *length = from.length;
}

void Listener::begin(const ServingWorker& worker) {
  for (uint32_t i = 0; i < worker.listen_sockets; ++i)
    mark({worker.first_listen + static_cast<int>(i)}, DescriptorKind::kPreforkd);
  mark({worker.segment, worker.settings, worker.networks, worker.library, worker.closer,
        worker.orders},
       DescriptorKind::kPreforkd);
  mark({worker.accepts_on}, DescriptorKind::kListen);
  here.listener = new Listener(worker);
  here.process = getpid();
}

bool Listener::is_there() { return here.listener != nullptr; }
const DescriptorNumbers& Listener::numbers() { return here.numbers; }

Listener* Listener::of_this_process() {
  return here.listener && system_call(SYS_getpid) == here.process ? here.listener : nullptr;
}

void Listener::end_parent() {
  const ServingWorker& handed = here.listener->handed_;
  const std::string why =
      "a child of it accepts (" + program_name() +
      "): a program that starts processes of its own is to be told to start none "
      "(PHP_FCGI_CHILDREN=0, fcgiwrap -c 1)";
  const bool is_template = handed.orders >= 0 && here.process == handed.pid;
  if (is_template)
    ForkPoint::tell_trouble(handed.orders, why);
  else
    log_to_pipe({LogLevel::kError, {}, here.process, why, {}});
  system_call(SYS_kill, -here.process, SIGKILL);
  _exit(static_cast<int>(ExitCode::kConfig));
}

// --- the point -----------------------------------------------------------------------------------

void Listener::start() {
  if (worker_) return;
  ThisWorker& worker = ThisWorker::expect();
  note_programs_signals();
  worker.start();
  here.process = getpid();
  keep_signals();
  // They are closed by now, and the numbers are the program's.
  mark({handed_.segment, handed_.settings, handed_.networks, handed_.library, handed_.orders},
       DescriptorKind::kProgram);
  mark({handed_.accepts_on}, DescriptorKind::kListen);
  for (const Watch& each : watches_)
    PREFORKD_LIBC(epoll_ctl)(each.epoll, EPOLL_CTL_DEL, each.fd, nullptr);
  worker_ = &worker;
}

// --- what there is to wait for -------------------------------------------------------------------

bool Listener::is_over(bool waits_for_nothing_else) const {
  if (!worker_->is_still_open() || is_shut_) return true;
  return waits_for_nothing_else && !is_nonblocking_ && threads() == 1;
}

Listener::State Listener::look(bool waits_for_nothing_else) {
  const std::lock_guard lock(state_);
  if (has_client_) return State::kClient;
  if (worker_->is_in_hand()) {
    if (!is_over(waits_for_nothing_else)) return State::kInHand;
    worker_->done(true);
  }
  Intake::Look now = worker_->intake().look();
  switch (now.until) {
    case Intake::Look::kTaken:
      worker_->begin(std::move(*now.connection));
      has_client_ = true;
      is_shut_ = false;
      return State::kClient;
    case Intake::Look::kReadable:
      return State::kReadable;
    case Intake::Look::kSignal:
      return State::kSignal;
    case Intake::Look::kPause:
      return State::kPause;
    default:
      return State::kOver;
  }
}

// Returns while this worker is needed. (What is registered for the process's end finds nothing locked.)
Listener::State Listener::look_or_end(std::unique_lock<std::mutex>& turn,
                                      bool waits_for_nothing_else) {
  const State state = look(waits_for_nothing_else);
  if (state != State::kOver) return state;
  turn.unlock();
  Interpreter::exit();
}

// The one that is readable when there is something to be looked at; -1: none is.
int Listener::wait_descriptor(State state) {
  waits_for_end_ = state == State::kInHand;
  if (state == State::kInHand) return descriptor_of_end();
  if (state != State::kReadable) return -1;
  const int fd = worker_->intake().wait_descriptor();
  mark({fd}, DescriptorKind::kPreforkd);
  return fd;
}

int Listener::descriptor_of_end() {
  if (end_ < 0) end_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  mark({end_}, DescriptorKind::kPreforkd);
  uint64_t count = 0;
  if (read(end_, &count, sizeof count) < 0 && errno != EAGAIN) log_error("eventfd: it is gone");
  return end_;
}

// --- accept --------------------------------------------------------------------------------------

int Listener::accept(sockaddr* address, socklen_t* length, int flags) {
  std::unique_lock turn(turn_);
  start();
  for (;;) {
    const State state = look_or_end(turn, true);
    if (state == State::kClient) return hand_over(address, length, flags);
    if (is_nonblocking_) return errno = EAGAIN, -1;
    if (!wait(state)) return errno = EINTR, -1;
  }
}

// False: the program is to hear that a signal has ended it.
bool Listener::wait(State state) {
  bool interrupted = false;
  if (state == State::kReadable) {
    interrupted = !worker_->intake().wait();
  } else {
    pollfd end{wait_descriptor(state), POLLIN, 0};
    const sigset_t blocked = worker_->intake().let_through(blocked_now());
    const timespec most = to_timespec(state == State::kInHand ? kLookAgain : Intake::kBackOff);
    interrupted =
        PREFORKD_LIBC(ppoll)(&end, 1, state == State::kSignal ? nullptr : &most, &blocked) < 0;
  }
  return !interrupted || Intake::is_nudged() || !has_handler_that_ends_calls();
}

int Listener::hand_over(sockaddr* address, socklen_t* length, int flags) {
  const std::lock_guard lock(state_);
  copy_address(worker_->connection().peer, address, length);
  const int fd = worker_->hand_over();
  if (!(flags & SOCK_CLOEXEC)) PREFORKD_LIBC(fcntl)(fd, F_SETFD, 0);
  if (flags & SOCK_NONBLOCK) PREFORKD_LIBC(fcntl)(fd, F_SETFL, O_RDWR | O_NONBLOCK);
  has_client_ = false;
  copies_ = 1;
  here.numbers.set(fd, DescriptorKind::kConnection);
  return fd;
}

// --- the connection ------------------------------------------------------------------------------

void Listener::closes(int fd) {
  const std::lock_guard lock(state_);
  const DescriptorKind kind = here.numbers[fd];
  here.numbers.set(fd, DescriptorKind::kProgram);
  if (kind == DescriptorKind::kEpoll)
    std::erase_if(watches_, [fd](const Watch& each) { return each.epoll == fd; });
  if (kind != DescriptorKind::kConnection || --copies_ > 0 || !worker_->is_in_hand()) return;
  worker_->done(true, fd);
  if (waits_for_end_) eventfd_write(end_, 1);
}

void Listener::copied(int from, int to) {
  const std::lock_guard lock(state_);
  const DescriptorKind kind = here.numbers[from];
  if (kind != DescriptorKind::kConnection && kind != DescriptorKind::kListen) return;
  copies_ += kind == DescriptorKind::kConnection;
  here.numbers.set(to, kind);
}

const SocketAddress* Listener::peer() const {
  const bool is_told = worker_ && worker_->settings().proxy_protocol && worker_->is_in_hand();
  return is_told ? &worker_->connection().peer : nullptr;
}

const SocketAddress* Listener::local() const {
  const bool is_told = worker_ && worker_->settings().proxy_protocol && worker_->is_in_hand() &&
                       worker_->connection().local.length > 0;
  return is_told ? &worker_->connection().local : nullptr;
}

// --- poll ----------------------------------------------------------------------------------------

int Listener::poll(pollfd* fds, nfds_t count, const Deadline& until, const sigset_t* mask) {
  std::unique_lock turn(turn_);
  start();
  auto is_listen = [](const pollfd& each) {
    return here.numbers[each.fd] == DescriptorKind::kListen && each.events & kReadable;
  };
  const bool for_nothing_else = std::all_of(fds, fds + count, is_listen);
  std::vector<pollfd> now(fds, fds + count);
  for (;;) {
    const State state = look_or_end(turn, for_nothing_else);
    const bool has_client = state == State::kClient;
    const int stands_in = has_client ? -1 : wait_descriptor(state);
    for (nfds_t i = 0; i < count; ++i)
      if (is_listen(fds[i])) now[i].fd = stands_in;
    const Nanoseconds most = state == State::kPause ? Intake::kBackOff : kNever;
    const Nanoseconds left = has_client ? 0 : until.left(most);
    const timespec time = to_timespec(left);
    const sigset_t blocked = worker_->intake().let_through(mask ? *mask : blocked_now());
    const int got =
        PREFORKD_LIBC(ppoll)(now.data(), count, left == kNever ? nullptr : &time, &blocked);
    if (got < 0 && !has_client) {
      if (errno == EINTR && Intake::is_nudged()) continue;
      return -1;
    }
    int ready = 0;
    for (nfds_t i = 0; i < count; ++i) {
      const bool is_ours = is_listen(fds[i]);
      fds[i].revents = is_ours ? static_cast<short>(has_client ? fds[i].events & kReadable : 0)
                               : static_cast<short>(got > 0 ? now[i].revents : 0);
      ready += fds[i].revents != 0;
    }
    if (ready > 0 || until.has_passed()) return ready;
  }
}

// --- epoll ---------------------------------------------------------------------------------------

Listener::Watch* Listener::watch_in(int epoll) {
  const auto found = std::ranges::find(watches_, epoll, &Watch::epoll);
  return found == watches_.end() ? nullptr : &*found;
}

// In the kernel's words: it does not know of the listen socket from the point on.
int Listener::error_of_control(int epoll, int operation, int fd, const epoll_event* event) {
  // (Nothing is taken away: it is not in there.)
  if (PREFORKD_LIBC(epoll_ctl)(epoll, EPOLL_CTL_DEL, fd, nullptr) < 0 && errno != ENOENT)
    return errno;
  const bool is_in = watch_in(epoll) != nullptr;
  switch (operation) {
    case EPOLL_CTL_ADD:
      return !event ? EFAULT : is_in ? EEXIST : 0;
    case EPOLL_CTL_MOD:
      return !event ? EFAULT : is_in ? 0 : ENOENT;
    case EPOLL_CTL_DEL:
      return is_in ? 0 : ENOENT;
    default:
      return EINVAL;
  }
}

// Until the point it is what the program takes it for: the fork point looks at what is registered.
int Listener::control_epoll(int epoll, int operation, int fd, epoll_event* event) {
  const std::lock_guard lock(state_);
  if (!worker_) {
    if (PREFORKD_LIBC(epoll_ctl)(epoll, operation, fd, event) < 0) return -1;
  } else if (const int error = error_of_control(epoll, operation, fd, event)) {
    return errno = error, -1;
  }
  if (Watch* const watch = watch_in(epoll)) {
    stand_in(*watch, -1);
    std::erase_if(watches_, [epoll](const Watch& each) { return each.epoll == epoll; });
  }
  if (operation != EPOLL_CTL_DEL) watches_.push_back({epoll, fd, *event});
  here.numbers.set(epoll,
                   operation == EPOLL_CTL_DEL ? DescriptorKind::kProgram : DescriptorKind::kEpoll);
  watch(watched_);
  return 0;
}

bool Listener::is_asked_in(int epoll) {
  const std::lock_guard lock(state_);
  const Watch* const watch = watch_in(epoll);
  return watch && watch->asks();
}

// Whatever the program asks for: it is to wake the wait, each time, and is none of the program's events.
void Listener::stand_in(Watch& watch, int fd) {
  if (fd == watch.stands_in) return;
  epoll_event event{EPOLLIN, {.ptr = &here}};
  if (watch.stands_in >= 0)
    PREFORKD_LIBC(epoll_ctl)(watch.epoll, EPOLL_CTL_DEL, watch.stands_in, nullptr);
  if (fd >= 0) PREFORKD_LIBC(epoll_ctl)(watch.epoll, EPOLL_CTL_ADD, fd, &event);
  watch.stands_in = fd;
}

void Listener::watch(int fd) {
  watched_ = fd;
  for (Watch& each : watches_) stand_in(each, each.asks() ? fd : -1);
}

// The client, if there is one and it is asked for.
int Listener::report_client(Watch* watch, epoll_event* event) {
  if (!watch || !watch->asks()) return 0;
  *event = {watch->event.events & (EPOLLIN | EPOLLRDNORM), watch->event.data};
  if (watch->event.events & EPOLLONESHOT) watch->event.events = 0;  // until it is asked for anew
  return 1;
}

int Listener::wait_epoll(int epoll, epoll_event* events, int most, const Deadline& until,
                         const sigset_t* mask) {
  std::unique_lock turn(turn_);
  start();
  for (;;) {
    const State state = look_or_end(turn, false);
    const int stands_in = state == State::kClient ? -1 : wait_descriptor(state);
    int reported = 0;
    {
      const std::lock_guard lock(state_);
      watch(stands_in);
      if (state == State::kClient) reported = report_client(watch_in(epoll), events);
    }
    if (reported == most) return reported;
    const Nanoseconds left =
        reported ? 0 : until.left(state == State::kPause ? Intake::kBackOff : kNever);
    const sigset_t blocked = worker_->intake().let_through(mask ? *mask : blocked_now());
    int got = PREFORKD_LIBC(epoll_pwait)(epoll, events + reported, most - reported,
                                         milliseconds_of(left), &blocked);
    if (got < 0 && !reported) {
      if (errno == EINTR && Intake::is_nudged()) continue;
      return -1;
    }
    const auto is_ours = [](const epoll_event& each) { return each.data.ptr == &here; };
    epoll_event* const end = events + reported + std::max(got, 0);
    got = static_cast<int>(std::remove_if(events + reported, end, is_ours) - events);
    if (got > 0 || until.has_passed()) return got;
  }
}

}  // namespace preforkd
