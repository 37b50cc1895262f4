// Information and figures of one pool put together: the plain struct from which the JSON, the metrics and the
// page are written. Pure, but for view_of() and view_all(), which read the pools and ask the kernel.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "base/backlog.h"
#include "control/pools.h"

namespace preforkd {

// Service times in microseconds. A quantile is the upper bound of its bucket, and not above `max`.
struct ServiceTimes {
  uint64_t p50 = 0, p90 = 0, p99 = 0, max = 0;
};
std::optional<ServiceTimes> service_times(const shm::Counters& figures);  // nothing without data

inline constexpr struct {
  const char* name;
  Nanoseconds length;
} kWindows[] = {{"1s", kSecond}, {"10s", 10 * kSecond}, {"60s", 60 * kSecond}};
static_assert(kWindows[2].length <= Utilization::kLongest);

struct PoolView {
  PoolInfo info;
  Reading reading;
  uint64_t total = 0, starting = 0, idle = 0, busy = 0, retiring = 0;  // workers
  uint64_t active = 0;                                                 // connections in hand
  Backlog backlog;
  uint32_t peak_busy = 0;  // of the newest generation
  double busy_now = 0;     // busy by total
  std::array<double, std::size(kWindows)> busy_over{};

  uint64_t accepted() const {
    const shm::Counters& f = reading.figures;
    return f.served + f.failed + f.aborted + active;
  }
};

PoolView make_view(const PoolInfo& info, Reading reading, const Utilization& utilization,
                   const std::map<ino_t, Backlog>& kernel);

// Of pools that are shown (Pools::shown, find_shown).
std::vector<PoolView> view_all(const std::vector<PoolReader*>& pools);
PoolView view_of(PoolReader& pool);

}  // namespace preforkd
