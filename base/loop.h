// The event loop of the daemon, of control and of the log process: level-triggered epoll, and one-shot timers. Single
// threaded. With no timer set it sleeps without a timeout: an idle process is never woken.
//
// An exception that a callback lets through ends the process. So a kernel that has no room for one more watch (ENOMEM;
// ENOSPC: fs.epoll.max_user_watches) is none: it is asked again ten times a second, and a warning says so.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"

namespace preforkd {

class EventLoop {
 public:
  using OnEvents = std::function<void(uint32_t epoll_events)>;

  // One timer that was set; dropped, or replaced by another, it does not run. The loop outlives it.
  class Timer {
   public:
    Timer() = default;
    Timer(Timer&& other) noexcept : loop_(std::exchange(other.loop_, nullptr)), id_(other.id_) {}
    Timer& operator=(Timer&& other) noexcept;
    ~Timer() { drop(); }
    // It has not run yet: while its callback runs it is not set any more.
    bool is_set() const { return loop_ && loop_->timers_.contains(id_); }

   private:
    friend class EventLoop;
    Timer(EventLoop& loop, std::pair<Nanoseconds, uint64_t> id) : loop_(&loop), id_(id) {}
    void drop() {
      if (loop_) loop_->timers_.erase(id_);
    }

    EventLoop* loop_ = nullptr;
    std::pair<Nanoseconds, uint64_t> id_{};
  };

  EventLoop();

  // The descriptor is borrowed: forget it before it is closed. A callback may watch, forget and
  // set timers freely, itself included. Throws SysError for a descriptor that is not open, is watched, or cannot be.
  void watch(int fd, uint32_t epoll_events, OnEvents on_events);
  void change(int fd, uint32_t epoll_events);
  void forget(int fd);

  // Those that are due at the same time run in the order in which they were set.
  [[nodiscard]] Timer at(Nanoseconds deadline, std::function<void()> on_time) {
    return {*this, add_timer(deadline, std::move(on_time))};
  }
  [[nodiscard]] Timer after(Nanoseconds delay, std::function<void()> on_time) {
    return at(monotonic_now() + delay, std::move(on_time));
  }
  // What nobody keeps: it runs, whoever is gone by then.
  void run_after(Nanoseconds delay, std::function<void()> on_time) {
    add_timer(monotonic_now() + delay, std::move(on_time));
  }

  void run();  // until stop()
  void stop() { running_ = false; }
  // One round: waits for at most one batch of events (`block` false: does not wait) and due timers.
  void turn(bool block);

 private:
  // An event carries the serial number of its watch: one that was already fetched for a descriptor that an
  // earlier callback closed is not given to the next one of that number.
  struct Watched {
    uint32_t serial;
    uint32_t epoll_events;
    std::shared_ptr<OnEvents> on_events;
    bool waits_for_room;
  };
  using TimerId = std::pair<Nanoseconds, uint64_t>;  // when, and a number of its own
  TimerId add_timer(Nanoseconds deadline, std::function<void()> on_time);
  bool control(int operation, int fd, const Watched& watched);
  void try_again_after(Nanoseconds pause);
  void try_again();

  UniqueFd epoll_;
  std::unordered_map<int, Watched> watched_;
  uint32_t next_serial_ = 1;
  std::map<TimerId, std::function<void()>> timers_;
  uint64_t next_timer_ = 1;
  Timer room_timer_;
  int no_room_ = 0;  // why, as long as it has not been said
  bool running_ = false;
};

}  // namespace preforkd
