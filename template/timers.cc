#include "template/timers.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace preforkd {
namespace {

constexpr int kIntervals[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
// The kernel counts: for one with a high number as many are made.
constexpr int kHighest = 1000;

}  // namespace

std::string Timers::take() {
  constexpr itimerval kOff{};
  for (size_t i = 0; i < std::size(kIntervals); ++i)
    setitimer(kIntervals[i], &kOff, &intervals_[i]);
  look();
  std::string trouble;
  for (Made& timer : made_) {
    constexpr itimerspec kStopped{};
    syscall(SYS_timer_settime, timer.id, 0, &kStopped, &timer.time);
    if (timer.id > kHighest) trouble = "it has made too many timers (timer_create(2))";
  }
  return trouble;
}

// As /proc has them: some lines for each, of which the one with its number is the first.
void Timers::look() {
  std::ifstream timers("/proc/self/timers");
  for (std::string line; std::getline(timers, line);) {
    int id = 0, clock = 0;
    uint64_t value = 0;
    char kind[16] = "", whose[4] = "";
    if (std::sscanf(line.c_str(), "ID: %d", &id) == 1) made_.push_back({id, 0, {}, {}});
    if (made_.empty()) continue;
    Made& timer = made_.back();
    int number = 0;
    if (std::sscanf(line.c_str(), "signal: %d/%" SCNx64, &number, &value) == 2) {
      timer.event.sigev_signo = number;
      timer.event.sigev_value.sival_ptr = reinterpret_cast<void*>(value);
    }
    if (std::sscanf(line.c_str(), "ClockID: %d", &clock) == 1) timer.clock = clock;
    if (std::sscanf(line.c_str(), "notify: %15[a-z]/%3s", kind, whose) != 2) continue;
    timer.event.sigev_notify = std::string(kind) == "none" ? SIGEV_NONE : SIGEV_SIGNAL;
    if (std::string(whose) == "tid") timer.event.sigev_notify = SIGEV_THREAD_ID;
  }
  std::sort(made_.begin(), made_.end(), [](const Made& a, const Made& b) { return a.id < b.id; });
}

void Timers::renew() const {
  for (const Made& timer : made_) make(timer);
}

// (glibc hands on the kernel's number, but for SIGEV_THREAD, which is a thread.)
void Timers::make(const Made& timer) const {
  sigevent event = timer.event;
  if (event.sigev_notify == SIGEV_THREAD_ID)
    event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
  std::vector<int> others;
  int id = -1;
  while (id < timer.id) {
    if (syscall(SYS_timer_create, timer.clock, &event, &id) < 0)
      throw SysError("make a timer", errno);
    if (id < timer.id) others.push_back(id);
  }
  for (int other : others) syscall(SYS_timer_delete, other);
  if (id != timer.id) throw SysError("make a timer of its number", EEXIST);
}

void Timers::begin() const {
  for (size_t i = 0; i < std::size(kIntervals); ++i)
    if (timerisset(&intervals_[i].it_value)) setitimer(kIntervals[i], &intervals_[i], nullptr);
  for (const Made& timer : made_)
    if (timer.time.it_value.tv_sec || timer.time.it_value.tv_nsec)
      syscall(SYS_timer_settime, timer.id, 0, &timer.time, nullptr);
}

}  // namespace preforkd
