// A timer of the daemon for how long others may take: what it stood still itself (base/standstill.h) is given to them.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "base/loop.h"
#include "base/standstill.h"

namespace preforkd {

// As EventLoop::at(); `until` is later by as much each time when that is seen. Both are the owner's, who cancels the timer.
inline void wait_patiently(EventLoop& loop, EventLoop::TimerId& timer, Nanoseconds& until,
                           std::function<void()> on_time) {
  const Nanoseconds began = monotonic_now(), look_at = next_look(until, began);
  timer = loop.at(look_at, [&loop, &timer, &until, began, look_at, on_time = std::move(on_time)] {
    timer = {};
    const Nanoseconds now = monotonic_now();
    until += stood_still(began, look_at, now);
    if (now < until) return wait_patiently(loop, timer, until, on_time);
    on_time();
  });
}

// As EventLoop::after(), with the same patience.
inline void wait_patiently_for(EventLoop& loop, EventLoop::TimerId& timer, Nanoseconds delay,
                               const std::function<void()>& on_time) {
  const auto until = std::make_shared<Nanoseconds>(monotonic_now() + delay);
  wait_patiently(loop, timer, *until, [until, on_time] { on_time(); });
}

}  // namespace preforkd
