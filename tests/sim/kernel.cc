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
constexpr Nanoseconds kWakeMost = 60 * kMicrosecond;
constexpr Nanoseconds kLostLeast = 5 * kMicrosecond, kLostMost = 200 * kMicrosecond;
constexpr Nanoseconds kLongLostMost = 15 * kMillisecond;
constexpr uint64_t kLosesOneIn = 8, kLosesLongOneIn = 4000;

}  // namespace

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

}  // namespace preforkd::sim
