#include "tests/soak/pool_watch.h"

#include <time.h>

#include <algorithm>
#include <string>

#include "base/clock.h"
#include "tests/system/process.h"

namespace preforkd::system_test {

PoolWatch::PoolWatch(pid_t supervisor, int min) : thread_([=, this] { watch(supervisor, min); }) {}

void PoolWatch::stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void PoolWatch::watch(pid_t supervisor, int min) {
  const timespec pause = to_timespec(5 * kMillisecond);
  Nanoseconds enough_at = monotonic_now();
  while (!stopping_) {
    const std::vector<pid_t> children = children_of(supervisor);
    const auto running =
        static_cast<int>(std::count_if(children.begin(), children.end(), is_running));
    const Nanoseconds now = monotonic_now();
    most_ = std::max(most_, running);
    if (running >= min) enough_at = now;
    longest_below_ = std::max(longest_below_, to_seconds(now - enough_at));
    nanosleep(&pause, nullptr);
  }
}

}  // namespace preforkd::system_test
