#include "control/pool_view.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

namespace preforkd {
namespace {

uint64_t quantile(const shm::Counters& figures, uint64_t count, double q) {
  auto rank = static_cast<uint64_t>(std::ceil(q * static_cast<double>(count)));
  uint64_t below = 0;
  for (uint32_t bucket = 0; bucket < kHistogramBuckets; ++bucket) {
    below += figures.histogram[bucket];
    if (below >= rank) return std::min(histogram_upper_bound(bucket), figures.max_us);
  }
  return figures.max_us;
}

// What waits on all of the pool's sockets, and the most that one of them lets wait. Where the kernel
// does not say, what the supervisors saw when they last looked, and what was asked for.
Backlog backlog_of(const PoolInfo& info, const Reading& reading,
                   const std::map<ino_t, Backlog>& kernel) {
  Backlog sum;
  bool known = false;
  for (ino_t inode : info.listen_inodes) {
    auto one = kernel.find(inode);
    if (one == kernel.end()) continue;
    known = true;
    sum.queued += one->second.queued;
    sum.limit = std::max(sum.limit, one->second.limit);
  }
  if (known) return sum;
  sum.limit = info.backlog_limit;
  if (!reading.living.empty())
    sum.queued =
        static_cast<uint32_t>(std::min<uint64_t>(reading.living.back().queued, UINT32_MAX));
  return sum;
}

}  // namespace

std::optional<ServiceTimes> service_times(const shm::Counters& figures) {
  uint64_t count =
      std::accumulate(std::begin(figures.histogram), std::end(figures.histogram), uint64_t{0});
  if (count == 0) return std::nullopt;
  return ServiceTimes{quantile(figures, count, 0.5), quantile(figures, count, 0.9),
                      quantile(figures, count, 0.99), figures.max_us};
}

PoolView make_view(const PoolInfo& info, Reading reading, const Utilization& utilization,
                   const std::map<ino_t, Backlog>& kernel) {
  PoolView view;
  view.info = info;
  view.starting = reading.sum(&shm::Snapshot::starting);
  view.idle = reading.sum(&shm::Snapshot::idle);
  view.busy = reading.sum(&shm::Snapshot::busy);
  view.retiring = reading.sum(&shm::Snapshot::retiring);
  view.total = view.starting + view.idle + view.busy + view.retiring;
  view.active = reading.sum(&shm::Snapshot::active);
  view.backlog = backlog_of(info, reading, kernel);
  if (!reading.living.empty()) view.peak_busy = reading.living.back().peak_busy;
  if (view.total > 0)
    view.busy_now = static_cast<double>(view.busy) / static_cast<double>(view.total);
  for (size_t i = 0; i < std::size(kWindows); ++i)
    view.busy_over[i] = utilization.over(kWindows[i].length, view.busy_now);
  view.reading = std::move(reading);
  return view;
}

std::vector<PoolView> view_all(const std::vector<PoolReader*>& pools) {
  std::vector<ino_t> inodes;
  for (const PoolReader* pool : pools)
    inodes.insert(inodes.end(), pool->info()->listen_inodes.begin(),
                  pool->info()->listen_inodes.end());
  auto kernel = queued_by_inode(inodes);
  std::vector<PoolView> views;
  for (PoolReader* pool : pools) {
    Reading reading = pool->read(monotonic_now());
    views.push_back(make_view(*pool->info(), std::move(reading), pool->utilization(), kernel));
  }
  return views;
}

PoolView view_of(PoolReader& pool) { return std::move(view_all({&pool}).front()); }

}  // namespace preforkd
