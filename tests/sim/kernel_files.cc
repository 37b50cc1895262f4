// The simulated kernel: signals, futexes and files.
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "tests/sim/kernel.h"
#include "worker/signals.h"

namespace preforkd::sim {
namespace {

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
  const bool is_blocked = process->blocked & signal_bit(number);
  const auto handler = process->actions[static_cast<size_t>(number)].handler;
  const bool is_ignored =
      handler == SIG_IGN || (handler == SIG_DFL && is_ignored_by_default(number));
  if (is_ignored && !is_blocked) return true;
  process->pending |= signal_bit(number);
  if (is_blocked)
    notify_signal_file(*process);
  else if (process->is_waiting && process->is_interruptible)
    wake_up(*process, Woken::kSignal);
  return true;
}

void Kernel::notify_signal_file(Process& process) {
  if (process.signal_file) notify(*process.signal_file);
}

void Kernel::deliver_signals() {
  Process& process = *current_;
  while (const uint64_t deliverable = process.pending & ~process.blocked) {
    const int number = __builtin_ctzll(deliverable) + 1;
    process.pending &= ~signal_bit(number);
    const Process::Action action = process.actions[static_cast<size_t>(number)];
    if (action.handler == SIG_IGN) continue;
    if (action.handler == SIG_DFL) {
      if (is_ignored_by_default(number)) continue;
      die(process, number);
    }
    const uint64_t before = process.blocked;
    if (action.blocks_itself) process.blocked |= signal_bit(number);
    action.handler(number);
    process.blocked = before;
  }
}

uint64_t Kernel::set_blocked(uint64_t blocked) {
  return std::exchange(current_->blocked, blocked & ~(signal_bit(SIGKILL) | signal_bit(SIGSTOP)));
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
