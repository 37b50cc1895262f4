// The buckets of the service-time histogram: pure functions from microseconds to a bucket and back.
// Up to 15 µs a bucket is one microsecond; above, each power of two is cut into 8, so that a bucket's
// upper bound is at most 12.5 % above any value in it. The last bucket takes everything from
// 2^40 µs (12.7 days) on.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace preforkd {

inline constexpr uint32_t kHistogramBuckets =
    8 + 37 * 8 + 1;  // 0..7, 2^3..2^39 in eighths, the rest

constexpr uint32_t histogram_bucket(uint64_t microseconds) {
  if (microseconds < 8) return static_cast<uint32_t>(microseconds);
  uint32_t octave = static_cast<uint32_t>(std::bit_width(microseconds)) - 1;  // 3 and up
  if (octave >= 40) return kHistogramBuckets - 1;
  uint32_t eighth = static_cast<uint32_t>(microseconds >> (octave - 3)) & 7;
  return 8 + (octave - 3) * 8 + eighth;
}

// The largest value that falls into the bucket.
constexpr uint64_t histogram_upper_bound(uint32_t bucket) {
  if (bucket < 8) return bucket;
  if (bucket >= kHistogramBuckets - 1) return ~uint64_t{0};
  uint32_t octave = (bucket - 8) / 8 + 3, eighth = (bucket - 8) % 8;
  return ((uint64_t{8} + eighth + 1) << (octave - 3)) - 1;
}

}  // namespace preforkd
