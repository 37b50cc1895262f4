#include "control/utilization.h"

#include <algorithm>

namespace preforkd {
namespace {
constexpr Nanoseconds kResolution = kSecond / 4;
}

void Utilization::add(Nanoseconds now, uint64_t busy_ns, uint64_t worker_ns) {
  size_t n = samples_.size();
  if (n >= 1 && now <= samples_[n - 1].at) return;
  if (n >= 2 && samples_[n - 1].at - samples_[n - 2].at < kResolution) samples_.pop_back();
  samples_.push_back({now, static_cast<double>(busy_ns), static_cast<double>(worker_ns)});
  while (samples_.size() >= 2 && samples_[1].at + kLongest <= now) samples_.pop_front();
}

double Utilization::over(Nanoseconds window, double otherwise) const {
  if (samples_.size() < 2) return otherwise;
  const Sample& end = samples_.back();
  Sample begin = at(end.at > window ? end.at - window : 0);
  double worker = end.worker - begin.worker;
  if (worker <= 0) return otherwise;
  return std::clamp((end.busy - begin.busy) / worker, 0.0, 1.0);
}

Utilization::Sample Utilization::at(Nanoseconds when) const {
  auto after = std::upper_bound(samples_.begin(), samples_.end(), when,
                                [](Nanoseconds t, const Sample& s) { return t < s.at; });
  if (after == samples_.begin()) return samples_.front();
  if (after == samples_.end()) return samples_.back();
  const Sample& before = *(after - 1);
  double part = static_cast<double>(when - before.at) / static_cast<double>(after->at - before.at);
  return {when, before.busy + part * (after->busy - before.busy),
          before.worker + part * (after->worker - before.worker)};
}

}  // namespace preforkd
