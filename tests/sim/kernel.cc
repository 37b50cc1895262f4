#include "tests/sim/kernel.h"

#include <cxxabi.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace preforkd::sim {

Kernel* kernel = nullptr;

namespace {

constexpr size_t kStack = 256 * 1024;
// How long things take, as measured on real machines: a fork, a wake-up, the time for which one loses the processor.
constexpr Nanoseconds kForkLeast = 60 * kMicrosecond, kForkMost = 150 * kMicrosecond;
constexpr Nanoseconds kWakeLeast = 3 * kMicrosecond, kWakeMost = 60 * kMicrosecond;
constexpr Nanoseconds kLostLeast = 5 * kMicrosecond, kLostMost = 200 * kMicrosecond;
constexpr Nanoseconds kLongLostMost = 15 * kMillisecond;
constexpr uint64_t kLosesOneIn = 8, kLosesLongOneIn = 4000;

uint64_t bit_of(int number) { return uint64_t{1} << (number - 1); }

bool is_ignored_by_default(int number) {
  return number == SIGCHLD || number == SIGURG || number == SIGCONT || number == SIGWINCH;
}

}  // namespace

bool SignalFile::is_readable() const { return process->pending & process->blocked; }

void MessageEnd::closed() {
  if (!peer) return;
  peer->peer = nullptr;
  if (peer->raises_sigio) kernel->send_signal(peer->owner, SIGIO);
  kernel->notify(*peer);
}

Kernel::Kernel(uint64_t seed, std::vector<PrivateMemory> private_memory)
    : random_(seed), private_memory_(std::move(private_memory)) {
  kernel = this;
}

Kernel::~Kernel() {
  kernel = nullptr;
  for (char* stack : all_stacks_) munmap(stack, kStack);
}

// --- the clock and the processor -----------------------------------------------------------------

void Kernel::at(Nanoseconds when, std::function<void()> event) {
  uint32_t place;
  if (free_actions_.empty()) {
    place = static_cast<uint32_t>(actions_.size());
    actions_.push_back(std::move(event));
  } else {
    place = free_actions_.back();
    free_actions_.pop_back();
    actions_[place] = std::move(event);
  }
  events_.push({std::max(when, now_), next_event_++, 0, 0, Woken::kEvent, place});
}

void Kernel::push(Nanoseconds when, Process& process, Woken woken) {
  events_.push({when, next_event_++, process.pid, process.turn, woken, 0});
}

void Kernel::run(const std::function<bool()>& is_over) {
  while (!is_over() && !events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    now_ = event.when;
    if (event.pid == 0) {
      auto action = std::move(actions_[event.action]);
      free_actions_.push_back(event.action);
      action();
      continue;
    }
    Process* process = find(event.pid);
    if (process && !process->is_dead && process->turn == event.turn)
      make_due(*process, event.woken);
  }
}

void Kernel::make_due(Process& process, Woken woken) {
  if (process.is_waiting) process.woken = woken;
  process.is_waiting = false;
  if (process.is_stopped)
    process.is_due = true;
  else
    resume(process);
}

void Kernel::begin_fiber() {
  Process* process = kernel->current_;
  process->body();
  kernel->exit(0);
}

void Kernel::resume(Process& process) {
  current_ = &process;
  void* const exceptions = abi::__cxa_get_globals();
  for (size_t i = 0, at = 0; i < private_memory_.size(); at += private_memory_[i++].size)
    std::memcpy(private_memory_[i].at, &process.globals[at], private_memory_[i].size);
  std::memcpy(exceptions, process.exceptions.data(), process.exceptions.size());
  errno = process.error;
  if (_setjmp(scheduler_) == 0) {
    if (process.has_begun) _longjmp(process.context, 1);
    process.has_begun = true;
    setcontext(&process.beginning);
  }
  Process& left = *current_;
  left.error = errno;
  std::memcpy(left.exceptions.data(), exceptions, left.exceptions.size());
  for (size_t i = 0, at = 0; i < private_memory_.size(); at += private_memory_[i++].size)
    std::memcpy(&left.globals[at], private_memory_[i].at, private_memory_[i].size);
  current_ = nullptr;
  if (stack_to_free_) free_stacks_.push_back(std::exchange(stack_to_free_, nullptr));
}

void Kernel::leave_fiber() {
  if (_setjmp(current_->context) == 0) _longjmp(scheduler_, 1);
}

void Kernel::lose_processor(Nanoseconds for_how_long) {
  Process& process = *current_;
  ++process.turn;
  push(now_ + for_how_long, process, Woken::kTimeout);
  leave_fiber();
}

Woken Kernel::sleep(Nanoseconds until, bool is_interruptible) {
  Process& process = *current_;
  ++process.turn;
  process.is_waiting = true;
  process.is_interruptible = is_interruptible;
  if (until != kNever) push(std::max(until, now_), process, Woken::kTimeout);
  leave_fiber();
  return process.woken;
}

void Kernel::wake_up(Process& process, Woken woken) {
  if (!process.is_waiting) return;
  process.is_waiting = false;
  process.woken = woken;
  ++process.turn;
  push(now_ + random_.between(kWakeLeast, kWakeMost), process, woken);
}

void Kernel::step() {
  Process& process = *current_;
  if (process.dies_in > 0 && --process.dies_in == 0) {
    process.was_killed = true;
    die(process, SIGKILL);
  }
  if (random_.one_in(kLosesOneIn)) {
    const Nanoseconds most =
        random_.one_in(kLosesLongOneIn / kLosesOneIn) ? kLongLostMost : kLostMost;
    lose_processor(random_.between(kLostLeast, most));
  }
  process.processor_time += kMicrosecond;
  deliver_signals();
}

// --- processes -----------------------------------------------------------------------------------

char* Kernel::new_stack() {
  if (!free_stacks_.empty()) {
    char* stack = free_stacks_.back();
    free_stacks_.pop_back();
    return stack;
  }
  void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  all_stacks_.push_back(static_cast<char*>(memory));
  return all_stacks_.back();
}

Process& Kernel::spawn(Process* parent, Kind kind, std::function<void()> body) {
  auto made = std::make_unique<Process>();
  Process& process = *made;
  process.pid = next_pid_++;
  process.kind = kind;
  process.parent = parent;
  process.session = process.pid;
  process.body = std::move(body);
  process.stack = new_stack();
  for (const PrivateMemory& memory : private_memory_) {
    const auto* from = static_cast<const char*>(memory.at);
    process.globals.insert(process.globals.end(), from, from + memory.size);
  }
  if (parent) parent->children.push_back(&process);
  getcontext(&process.beginning);
  process.beginning.uc_stack.ss_sp = process.stack;
  process.beginning.uc_stack.ss_size = kStack;
  process.beginning.uc_link = nullptr;
  makecontext(&process.beginning, &Kernel::begin_fiber, 0);
  processes_.emplace(process.pid, std::move(made));
  push(now_ + random_.between(kWakeLeast, kForkMost), process, Woken::kEvent);
  return process;
}

pid_t Kernel::fork(std::function<void()> child) {
  step();
  ++forks_tried_;
  Process& parent = *current_;
  if (forks_fail()) {
    errno = fork_error_;
    return -1;
  }
  Process& made = spawn(&parent, Kind::kWorker, std::move(child));
  made.world = parent.world;
  made.session = parent.session;
  made.actions = parent.actions;
  made.blocked = parent.blocked;
  observer_->on_fork(made);
  const pid_t pid = made.pid;
  lose_processor(random_.between(kForkLeast, kForkMost));
  return pid;
}

void Kernel::exit(int status) {
  die(*current_, (status & 0xff) << 8);
  std::abort();
}

Process* Kernel::reaper_of(Process& process) {
  for (Process* p = process.parent; p; p = p->parent)
    if (p->is_subreaper && !p->is_dead) return p;
  return nullptr;
}

void Kernel::drop_from_waiters(Process& process) {
  if (process.waits_in && process.waits_in->waiter == &process) process.waits_in->waiter = nullptr;
  if (!process.waits_on) return;
  auto found = waiters_.find(process.waits_on);
  process.waits_on = nullptr;
  if (found == waiters_.end()) return;
  std::erase(found->second, &process);
  if (found->second.empty()) waiters_.erase(found);
}

void Kernel::die(Process& process, int status) {
  process.is_dead = true;
  process.status = status;
  ++process.turn;
  drop_from_waiters(process);
  for (int fd = 0; fd < static_cast<int>(files_.size()); ++fd)
    if (files_[static_cast<size_t>(fd)] && files_[static_cast<size_t>(fd)]->owner == process.pid)
      release(kFirstFd + fd);
  observer_->on_death(process);
  Process* const reaper = reaper_of(process);
  for (Process* child : std::exchange(process.children, {})) {
    child->parent = reaper;
    if (reaper) reaper->children.push_back(child);
    if (!child->is_dead && child->death_signal) send_signal(child->pid, child->death_signal);
    if (child->is_dead) tell_parent(*child);
  }
  tell_parent(process);
  if (&process != current_) {
    free_stacks_.push_back(std::exchange(process.stack, nullptr));
    return;
  }
  stack_to_free_ = std::exchange(process.stack, nullptr);
  leave_fiber();
}

void Kernel::tell_parent(Process& process) {
  if (process.parent && !process.parent->is_dead) send_signal(process.parent->pid, SIGCHLD);
}

Process* Kernel::find(pid_t pid) {
  const auto found = processes_.find(pid);
  return found == processes_.end() ? nullptr : found->second.get();
}

pid_t Kernel::peek(pid_t which, int options, int* status) {
  for (Process* child : current_->children) {
    if (which > 0 && child->pid != which) continue;
    const bool has_news =
        child->news >= 0 && (WIFSTOPPED(child->news) ? options & WUNTRACED : options & WCONTINUED);
    if (!child->is_dead && !has_news) continue;
    *status = child->is_dead ? child->status : child->news;
    return child->pid;
  }
  if (current_->children.empty()) return errno = ECHILD, -1;
  return 0;
}

pid_t Kernel::wait(pid_t which, int options, int* status, rusage* usage) {
  int found_status = 0;
  const pid_t found = peek(which, options, &found_status);
  if (found <= 0) return found;
  if (status) *status = found_status;
  Process& child = *find(found);
  if (usage) {
    usage->ru_utime.tv_sec = static_cast<time_t>(child.processor_time / kSecond);
    usage->ru_utime.tv_usec =
        static_cast<suseconds_t>(child.processor_time % kSecond / kMicrosecond);
  }
  child.news = -1;
  if (child.is_dead) reap(child);
  return found;
}

void Kernel::reap(Process& process) {
  std::erase(process.parent->children, &process);
  processes_.erase(process.pid);
}

// --- signals -------------------------------------------------------------------------------------

bool Kernel::send_signal(pid_t to, int number) {
  Process* process = find(to);
  if (!process) return false;
  if (process->is_dead || number == 0) return true;
  if (number == SIGKILL) {
    die(*process, SIGKILL);
    return true;
  }
  if (number == SIGSTOP || number == SIGCONT) {
    const bool stops = number == SIGSTOP;
    if (process->is_stopped == stops) return true;
    process->is_stopped = stops;
    // It leaves what it waits in: no wake-up is for it any more, until it goes on.
    if (stops && process->is_waiting && process->is_interruptible) {
      drop_from_waiters(*process);
      process->is_waiting = false;
      process->woken = Woken::kSignal;
      process->is_due = true;
      ++process->turn;
    }
    process->news = stops ? (SIGSTOP << 8 | 0x7f) : 0xffff;
    tell_parent(*process);
    if (!stops && std::exchange(process->is_due, false)) {
      ++process->turn;
      push(now_ + kWakeLeast, *process, process->woken);
    }
    return true;
  }
  const bool is_blocked = process->blocked & bit_of(number);
  const auto handler = process->actions[static_cast<size_t>(number)].handler;
  const bool is_ignored =
      handler == SIG_IGN || (handler == SIG_DFL && is_ignored_by_default(number));
  if (is_ignored && !is_blocked) return true;
  process->pending |= bit_of(number);
  if (is_blocked)
    notify_signal_file(*process);
  else if (process->is_waiting && process->is_interruptible)
    wake_up(*process, Woken::kSignal);
  return true;
}

void Kernel::notify_signal_file(Process& process) {
  for (const auto& file : files_)
    if (auto* signals = dynamic_cast<SignalFile*>(file.get());
        signals && signals->process == &process)
      notify(*signals);
}

void Kernel::deliver_signals() {
  Process& process = *current_;
  while (const uint64_t deliverable = process.pending & ~process.blocked) {
    const int number = __builtin_ctzll(deliverable) + 1;
    process.pending &= ~bit_of(number);
    const Process::Action action = process.actions[static_cast<size_t>(number)];
    if (action.handler == SIG_IGN) continue;
    if (action.handler == SIG_DFL) {
      if (is_ignored_by_default(number)) continue;
      die(process, number);
    }
    const uint64_t before = process.blocked;
    if (action.blocks_itself) process.blocked |= bit_of(number);
    action.handler(number);
    process.blocked = before;
  }
}

uint64_t Kernel::set_blocked(uint64_t blocked) {
  return std::exchange(current_->blocked, blocked & ~(bit_of(SIGKILL) | bit_of(SIGSTOP)));
}

// --- futexes -------------------------------------------------------------------------------------

Woken Kernel::wait_on(const void* word, Nanoseconds until) {
  Process& process = *current_;
  waiters_[word].push_back(&process);
  process.waits_on = word;
  const Woken woken = sleep(until, true);
  drop_from_waiters(process);
  return woken;
}

int Kernel::wake(const void* word, int most) {
  int woken = 0;
  for (; woken < most; ++woken) {
    const auto found = waiters_.find(word);
    if (found == waiters_.end()) break;
    Process& process = *found->second.front();
    drop_from_waiters(process);
    wake_up(process, Woken::kEvent);
  }
  return woken;
}

// --- files ---------------------------------------------------------------------------------------

void Kernel::add(std::unique_ptr<File> file, pid_t owner) {
  file->owner = owner;
  if (free_fds_.empty()) {
    file->fd = kFirstFd + static_cast<int>(files_.size());
    files_.push_back(std::move(file));
    return;
  }
  const int place = free_fds_.back();
  free_fds_.pop_back();
  file->fd = kFirstFd + place;
  files_[static_cast<size_t>(place)] = std::move(file);
}

File* Kernel::raw_file(int fd) const {
  const auto place = static_cast<size_t>(fd - kFirstFd);
  return is_simulated(fd) && place < files_.size() ? files_[place].get() : nullptr;
}

void Kernel::close(int fd) {
  File* file = raw_file(fd);
  if (!file) return;
  if (current_ && dynamic_cast<ListenSocket*>(file) && file->owner != current_->pid)
    current_->given_up.push_back(fd);
  else if (!current_ || file->owner == current_->pid)
    release(fd);
}

void Kernel::release(int fd) {
  File* file = raw_file(fd);
  file->closed();
  if (auto* connection = dynamic_cast<Connection*>(file)) observer_->on_close(*connection);
  forget_watchers(*file);
  if (auto* epoll = dynamic_cast<Epoll*>(file))
    for (const auto& registration : epoll->registrations)
      std::erase(registration->file->watchers, registration.get());
  files_[static_cast<size_t>(fd - kFirstFd)].reset();
  free_fds_.push_back(fd - kFirstFd);
}

void Kernel::forget_watchers(File& file) {
  for (Registration* registration : std::exchange(file.watchers, {})) {
    Epoll& epoll = *registration->epoll;
    std::erase(epoll.ready, registration);
    std::erase_if(epoll.registrations,
                  [registration](const auto& other) { return other.get() == registration; });
  }
}

// As ep_poll_callback() of fs/eventpoll.c: whoever has nobody waiting in it is marked, and passed over.
void Kernel::notify(File& file) {
  for (Registration* registration : std::vector<Registration*>(file.watchers)) {
    Epoll& epoll = *registration->epoll;
    if (!std::exchange(registration->is_ready, true)) epoll.ready.push_back(registration);
    Process* waiter = std::exchange(epoll.waiter, nullptr);
    if (!waiter) continue;
    wake_up(*waiter, Woken::kEvent);
    if (registration->is_exclusive) break;
  }
}

int Kernel::epoll_ctl(int fd_of_epoll, int operation, int fd, const epoll_event* event) {
  auto* epoll = file<Epoll>(fd_of_epoll);
  File* watched = raw_file(fd);
  const bool has_given_it_up = std::find(current_->given_up.begin(), current_->given_up.end(),
                                         fd) != current_->given_up.end();
  if (!epoll || !watched || has_given_it_up) return -EBADF;
  const auto found = std::find_if(epoll->registrations.begin(), epoll->registrations.end(),
                                  [watched](const auto& r) { return r->file == watched; });
  if (operation == EPOLL_CTL_ADD) {
    if (found != epoll->registrations.end()) return -EEXIST;
    auto made = std::make_unique<Registration>(Registration{watched, epoll, *event});
    Registration& registration = *made;
    registration.is_exclusive = event->events & EPOLLEXCLUSIVE;
    auto& watchers = watched->watchers;
    watchers.insert(registration.is_exclusive ? watchers.end() : watchers.begin(), &registration);
    epoll->registrations.push_back(std::move(made));
    if (!watched->is_readable()) return 0;
    registration.is_ready = true;
    epoll->ready.push_back(&registration);
    if (Process* waiter = std::exchange(epoll->waiter, nullptr)) wake_up(*waiter, Woken::kEvent);
    return 0;
  }
  if (found == epoll->registrations.end()) return -ENOENT;
  if (operation == EPOLL_CTL_MOD) {
    (*found)->event = *event;
    return 0;
  }
  std::erase(watched->watchers, found->get());
  std::erase(epoll->ready, found->get());
  epoll->registrations.erase(found);
  return 0;
}

// Level-triggered: what is reported stays ready, behind the others.
int Kernel::collect(Epoll& epoll, epoll_event* events, int most) {
  int count = 0;
  for (size_t left = epoll.ready.size(); left > 0 && count < most; --left) {
    Registration* registration = epoll.ready.front();
    epoll.ready.pop_front();
    registration->is_ready = registration->file->is_readable();
    if (!registration->is_ready) continue;
    epoll.ready.push_back(registration);
    events[count] = registration->event;
    events[count++].events = EPOLLIN;
  }
  return count;
}

int Kernel::epoll_wait(int fd, epoll_event* events, int most, Nanoseconds until,
                       const uint64_t* blocked) {
  Process& process = *current_;
  auto* epoll = file<Epoll>(fd);
  if (!epoll) return -EBADF;
  const uint64_t before = process.blocked;
  if (blocked) set_blocked(*blocked);
  int result = 0;
  for (bool is_over = false;;) {
    result = collect(*epoll, events, most);
    if (result > 0 || is_over) break;
    if (process.pending & ~process.blocked) {
      deliver_signals();
      result = -EINTR;
      break;
    }
    if (until <= now_) break;
    epoll->waiter = &process;
    process.waits_in = epoll;
    observer_->on_epoll_wait(process, true);
    is_over = sleep(until, true) == Woken::kTimeout;
    observer_->on_epoll_wait(process, false);
    process.waits_in = nullptr;
    epoll->waiter = nullptr;
  }
  process.blocked = before;
  deliver_signals();
  return result;
}

void Kernel::arrive(ListenSocket& socket, Connection& connection) {
  socket.queue.push_back(&connection);
  notify(socket);
}

int Kernel::accept(int fd) {
  auto* socket = file<ListenSocket>(fd);
  const auto& given_up = current_->given_up;
  if (!socket || std::find(given_up.begin(), given_up.end(), fd) != given_up.end()) return -EBADF;
  if (socket->has_given_up) return -EINVAL;
  if (socket->queue.empty()) return -EAGAIN;
  Connection& connection = *socket->queue.front();
  socket->queue.pop_front();
  connection.owner = connection.worker = current_->pid;
  connection.accepted_at = now_;
  observer_->on_accept(*current_);
  return connection.fd;
}

}  // namespace preforkd::sim
