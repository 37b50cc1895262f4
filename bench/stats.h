// The few statistics that the results need. Pure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace preforkd::bench {

using Samples = std::vector<double>;

inline double median(Samples samples) {
  std::sort(samples.begin(), samples.end());
  size_t half = samples.size() / 2;
  return samples.size() % 2 ? samples[half] : (samples[half - 1] + samples[half]) / 2;
}

// The sample below which this part of them lies.
inline double quantile(Samples samples, double part) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<size_t>(part * static_cast<double>(samples.size() - 1))];
}

inline double lowest(const Samples& samples) {
  return *std::min_element(samples.begin(), samples.end());
}
inline double highest(const Samples& samples) {
  return *std::max_element(samples.begin(), samples.end());
}

// Each sample by the one that was taken beside it.
inline Samples ratios(const Samples& ours, const Samples& reference) {
  Samples result;
  for (size_t i = 0; i < ours.size(); i++) result.push_back(ours[i] / reference[i]);
  return result;
}

struct Interval {
  double low, high;
};

// Where the median lies with 95 % confidence: the percentile bootstrap, which assumes nothing about
// the distribution (a neighbour on the machine makes it one-sided). The generator is seeded with a
// constant, so that the same samples give the same interval.
inline Interval confidence_of_median(const Samples& samples) {
  constexpr size_t kResamples = 10'000;
  std::mt19937 random(1);
  std::uniform_int_distribution<size_t> pick(0, samples.size() - 1);
  Samples medians(kResamples), resample(samples.size());
  for (double& m : medians) {
    for (double& value : resample) value = samples[pick(random)];
    m = median(resample);
  }
  std::sort(medians.begin(), medians.end());
  return {medians[kResamples * 25 / 1000], medians[kResamples * 975 / 1000]};
}

}  // namespace preforkd::bench
