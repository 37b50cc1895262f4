// base/backoff: how pauses grow, and how they are spread.
#include "base/backoff.h"

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

constexpr Backoff kRule = {100 * kMillisecond, 5 * kSecond};

void doubles_up_to_the_longest() {
  const Nanoseconds wanted[] = {0, 100, 200, 400, 800, 1600, 3200, 5000, 5000};  // milliseconds
  for (uint32_t failures = 0; failures < std::size(wanted); ++failures)
    CU_ASSERT_EQUAL(kRule.after(failures), wanted[failures] * kMillisecond);
  CU_ASSERT_EQUAL(kRule.after(~0u), kRule.longest);
  constexpr Backoff kWide = {1, 365 * 24 * 3600 * kSecond};
  CU_ASSERT(kWide.after(~0u) >= kSecond);
}

void is_spread_by_a_quarter() {
  CU_ASSERT_EQUAL(spread(1000, 0), 750);
  CU_ASSERT_EQUAL(spread(1000, 512), 1000);
  CU_ASSERT_EQUAL(spread(1000, 1023), 1249);
  CU_ASSERT_EQUAL(spread(1000, 1024), 750);
  CU_ASSERT_EQUAL(spread(0, 77), 0);
}

}  // namespace

void add_backoff_tests() {
  static const unit::Test kTests[] = {
      {"a pause doubles with each failure, up to the longest", doubles_up_to_the_longest},
      {"a pause is spread by a quarter to each side", is_spread_by_a_quarter},
  };
  unit::add_suite("backoff", kTests);
}
