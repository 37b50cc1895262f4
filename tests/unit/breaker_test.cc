// daemon/breaker: when it trips, how long it pauses, what resets it.
#include "daemon/breaker.h"

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

constexpr uint32_t kMiddle = 512;  // of the jitter: exactly the pause
constexpr Nanoseconds kNow = 1000 * kSecond;

Breaker deaths_in_a_row(uint32_t count, uint64_t served = 0) {
  Breaker b;
  for (uint32_t i = 0; i < count; ++i) b = b.after_death(served, kNow, kMiddle);
  return b;
}

void trips_at_the_fifth() {
  for (uint32_t n = 0; n < 5; ++n) {
    CU_ASSERT_FALSE(deaths_in_a_row(n).tripped());
    CU_ASSERT_EQUAL(deaths_in_a_row(n).retry_at, 0);
  }
  CU_ASSERT_TRUE(deaths_in_a_row(5).tripped());
}

void pauses_double() {
  static const struct {
    uint32_t deaths;
    Nanoseconds pause;
  } kRows[] = {
      {5, 100 * kMillisecond},    {6, 200 * kMillisecond},  {7, 400 * kMillisecond},
      {8, 800 * kMillisecond},    {9, 1600 * kMillisecond}, {12, 12800 * kMillisecond},
      {13, 25600 * kMillisecond}, {14, 30 * kSecond},       {1000, 30 * kSecond},
  };
  for (const auto& row : kRows) {
    Breaker b = deaths_in_a_row(row.deaths);
    CU_ASSERT_EQUAL(b.pause(), row.pause);
    CU_ASSERT_EQUAL(b.retry_at, kNow + row.pause);
    CU_ASSERT_EQUAL(b.after_probe(2 * kNow, kMiddle).retry_at, 2 * kNow + row.pause);
  }
}

void jitter_is_a_quarter() {
  const Breaker four = deaths_in_a_row(4);
  Nanoseconds lowest = kNever, highest = 0;
  for (uint32_t jitter = 0; jitter < 5000; ++jitter) {
    Nanoseconds pause = four.after_death(0, kNow, jitter).retry_at - kNow;
    lowest = std::min(lowest, pause);
    highest = std::max(highest, pause);
  }
  CU_ASSERT_EQUAL(lowest, 75 * kMillisecond);
  CU_ASSERT(highest > 124 * kMillisecond && highest <= 125 * kMillisecond);
  CU_ASSERT(four.after_death(0, kNow, ~0u).retry_at <= kNow + 125 * kMillisecond);
}

void one_success_resets() {
  Breaker b = deaths_in_a_row(7, 10);
  CU_ASSERT_TRUE(b.after_progress(10).tripped());  // those were served before
  CU_ASSERT_FALSE(b.after_progress(11).tripped());
  CU_ASSERT_EQUAL(b.after_progress(11).deaths, 0);
  CU_ASSERT_EQUAL(b.after_death(11, kNow, 0).deaths, 1);
  // Four deaths, one served, four deaths: never five in a row.
  b = deaths_in_a_row(4, 10);
  for (int i = 0; i < 4; ++i) b = b.after_death(11, kNow, 0);
  CU_ASSERT_EQUAL(b.deaths, 4);
  CU_ASSERT_FALSE(b.tripped());
  // What was served before the first death does not matter.
  CU_ASSERT_TRUE(deaths_in_a_row(5, 1'000'000).tripped());
}

void nothing_to_reset() {
  Breaker b;
  CU_ASSERT_EQUAL(b.after_progress(100).deaths, 0);
  CU_ASSERT_FALSE(b.tripped());
}

// Deaths that claim a connection each never trip it, and still are made good at 250 a second only.
void a_bound_that_no_worker_reaches() {
  constexpr uint32_t kMax = 20;
  Breaker b;
  uint64_t served = 0;
  for (uint32_t i = 0; i < Breaker::kAtOnce + kMax; ++i) b = b.after_death(++served, kNow, kMiddle);
  CU_ASSERT_FALSE(b.tripped());
  CU_ASSERT(b.fork_at(kMax) <= kNow);
  for (int i = 0; i < 250; ++i) b = b.after_death(++served, kNow, kMiddle);
  CU_ASSERT_EQUAL(b.fork_at(kMax), kNow + kSecond);
  CU_ASSERT(b.fork_at(kMax + 250) <= kNow);
  b = b.after_death(++served, kNow + 60 * kSecond, kMiddle);
  CU_ASSERT(b.fork_at(kMax) <= kNow + 60 * kSecond);
}

}  // namespace

void add_breaker_tests() {
  static const unit::Test kTests[] = {
      {"trips at the fifth death in a row", trips_at_the_fifth},
      {"pauses double up to 30 s", pauses_double},
      {"jitter spreads by a quarter", jitter_is_a_quarter},
      {"one connection served resets it", one_success_resets},
      {"progress without deaths is nothing", nothing_to_reset},
      {"a bound that no worker reaches", a_bound_that_no_worker_reaches},
  };
  unit::add_suite("breaker", kTests);
}
