// shm/histogram: the buckets have no gap and no overlap, and promise what the header says.
#include "shm/histogram.h"

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

constexpr uint32_t kLast = kHistogramBuckets - 1;

// The smallest value of a bucket: one above the bucket before.
uint64_t lower_bound(uint32_t bucket) {
  return bucket == 0 ? 0 : histogram_upper_bound(bucket - 1) + 1;
}

void known_values() {
  static const struct {
    uint64_t us;
    uint32_t bucket;
    uint64_t upper;
  } kRows[] = {
      {0, 0, 0},
      {7, 7, 7},
      {8, 8, 8},
      {15, 15, 15},
      {16, 16, 17},
      {17, 16, 17},
      {18, 17, 19},
      {31, 23, 31},
      {32, 24, 35},
      {100, 36, 103},
      {1000, 63, 1023},
      {1024, 64, 1151},
      {(uint64_t{1} << 40) - 1, kLast - 1, (uint64_t{1} << 40) - 1},
      {uint64_t{1} << 40, kLast, ~uint64_t{0}},
      {~uint64_t{0}, kLast, ~uint64_t{0}},
  };
  for (const auto& row : kRows) {
    CU_ASSERT_EQUAL(histogram_bucket(row.us), row.bucket);
    CU_ASSERT_EQUAL(histogram_upper_bound(row.bucket), row.upper);
  }
}

void bounds_of_every_bucket() {
  for (uint32_t b = 0; b < kHistogramBuckets; ++b) {
    CU_ASSERT_EQUAL(histogram_bucket(lower_bound(b)), b);
    CU_ASSERT_EQUAL(histogram_bucket(histogram_upper_bound(b)), b);
    if (b < kLast) CU_ASSERT_EQUAL(histogram_bucket(histogram_upper_bound(b) + 1), b + 1);
    if (b > 0) CU_ASSERT(histogram_upper_bound(b) > histogram_upper_bound(b - 1));
  }
}

void error_is_an_eighth() {
  for (uint32_t b = 1; b < kLast; ++b) {
    uint64_t lowest = lower_bound(b), upper = histogram_upper_bound(b);
    CU_ASSERT(8 * (upper - lowest) <= lowest);
    if (lowest <= 15) CU_ASSERT_EQUAL(upper, lowest);
  }
}

void no_bucket_beyond() {
  for (uint32_t b : {kLast, kLast + 1, 1000u, ~0u})
    CU_ASSERT_EQUAL(histogram_upper_bound(b), ~uint64_t{0});
  for (int bit = 0; bit < 64; ++bit)
    for (uint64_t around :
         {(uint64_t{1} << bit) - 1, uint64_t{1} << bit, (uint64_t{1} << bit) + 1}) {
      CU_ASSERT(histogram_bucket(around) < kHistogramBuckets);
      CU_ASSERT(histogram_upper_bound(histogram_bucket(around)) >= around);
    }
}

}  // namespace

void add_histogram_tests() {
  static const unit::Test kTests[] = {
      {"values worked out by hand", known_values},
      {"bounds of every bucket", bounds_of_every_bucket},
      {"at most an eighth above", error_is_an_eighth},
      {"extremes stay inside", no_bucket_beyond},
  };
  unit::add_suite("histogram", kTests);
}
