#include "base/loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kRoomAgain = 100 * kMillisecond;

}  // namespace

EventLoop::EventLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_.is_open()) throw SysError("epoll_create1", errno);
}

// False: there is no room for it.
bool EventLoop::control(int operation, int fd, const Watched& watched) {
  epoll_event event{};
  event.events = watched.epoll_events;
  event.data.u64 = uint64_t{watched.serial} << 32 | static_cast<uint32_t>(fd);
  if (epoll_ctl(epoll_.get(), operation, fd, &event) == 0) return true;
  if (errno != ENOMEM && errno != ENOSPC) throw SysError("epoll_ctl", errno);
  return false;
}

void EventLoop::watch(int fd, uint32_t epoll_events, OnEvents on_events) {
  Watched watched{next_serial_, epoll_events, std::make_shared<OnEvents>(std::move(on_events)),
                  false};
  if (!control(EPOLL_CTL_ADD, fd, watched)) {
    watched.waits_for_room = true;
    no_room_ = errno;
    try_again_after(0);
  }
  ++next_serial_;
  watched_[fd] = std::move(watched);
}

// At once, and then each kRoomAgain. Said here, and not by watch(), whose caller may be about to write the log; and not
// later: an upgrade would forget it.
void EventLoop::try_again() {
  if (const int error = std::exchange(no_room_, 0))
    log_warning(std::string("epoll_ctl: ") + std::strerror(error) +
                ": what is to be watched waits until there is room");
  bool all = true;
  for (auto& [fd, watched] : watched_)
    if (watched.waits_for_room)
      all &= !(watched.waits_for_room = !control(EPOLL_CTL_ADD, fd, watched));
  if (!all) try_again_after(kRoomAgain);
}

void EventLoop::try_again_after(Nanoseconds pause) {
  if (!room_timer_.is_set()) room_timer_ = after(pause, [this] { try_again(); });
}

void EventLoop::change(int fd, uint32_t epoll_events) {
  auto found = watched_.find(fd);
  if (found == watched_.end()) throw SysError("epoll_ctl", ENOENT);
  found->second.epoll_events = epoll_events;
  if (!found->second.waits_for_room) control(EPOLL_CTL_MOD, fd, found->second);
}

void EventLoop::forget(int fd) {
  if (watched_.erase(fd)) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::Timer& EventLoop::Timer::operator=(Timer&& other) noexcept {
  if (this == &other) return *this;
  drop();
  loop_ = std::exchange(other.loop_, nullptr);
  id_ = other.id_;
  return *this;
}

EventLoop::TimerId EventLoop::add_timer(Nanoseconds deadline, std::function<void()> on_time) {
  const TimerId id{deadline, next_timer_++};
  timers_.emplace(id, std::move(on_time));
  return id;
}

void EventLoop::run() {
  running_ = true;
  while (running_) turn(true);
}

void EventLoop::turn(bool block) {
  int timeout = block ? -1 : 0;
  if (block && !timers_.empty()) {
    Nanoseconds now = monotonic_now(), due = timers_.begin()->first.first;
    // Rounded up: a timer that is woken early would only be waited for again.
    Nanoseconds wait = due > now ? (due - now + kMillisecond - 1) / kMillisecond : 0;
    timeout = static_cast<int>(std::min<Nanoseconds>(wait, INT_MAX));
  }
  epoll_event events[64];
  int n = epoll_wait(epoll_.get(), events, 64, timeout);
  if (n < 0 && errno != EINTR) throw SysError("epoll_wait", errno);
  for (int i = 0; i < n; ++i) {
    // An earlier callback may have forgotten it.
    auto found = watched_.find(static_cast<int>(events[i].data.u64 & 0xffffffff));
    if (found == watched_.end() || found->second.serial != events[i].data.u64 >> 32) continue;
    auto on_events = found->second.on_events;
    (*on_events)(events[i].events);
  }
  Nanoseconds now = monotonic_now();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    auto timer = timers_.extract(timers_.begin());
    timer.mapped()();
  }
}

}  // namespace preforkd
