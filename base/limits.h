// The limits of a pool that may be moved while it runs. Owned by the daemon, which sends them to the
// supervisor; decide() works by them; the control socket shows and changes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"

namespace preforkd {

struct Limits {
  uint32_t min = 4;        // workers that always exist
  uint32_t max = 256;      // workers that may exist at once, in one generation
  uint32_t min_spare = 2;  // idle workers kept ready for the next connection
  uint32_t max_spare = 8;  // idle workers kept above the recent peak when shrinking
  Nanoseconds shrink_after = 10 * kSecond;  // how long a surplus must last before it is let go

  bool operator==(const Limits&) const = default;
};

struct Contradiction {
  const char *one, *other;  // the limits that do not go together
  std::string text;         // "min 5 is above max 4"
};

// Every way in which these limits contradict each other.
inline std::vector<Contradiction> contradictions(const Limits& l) {
  std::vector<Contradiction> found;
  auto expect_not_above = [&](const char* a, uint32_t x, const char* b, uint32_t y) {
    if (x > y)
      found.push_back(
          {a, b,
           std::string(a) + " " + std::to_string(x) + " is above " + b + " " + std::to_string(y)});
  };
  if (l.max == 0) return {{"max", "max", "max must be at least 1"}};
  expect_not_above("min", l.min, "max", l.max);
  expect_not_above("min_spare", l.min_spare, "max", l.max);
  expect_not_above("min_spare", l.min_spare, "max_spare", l.max_spare);
  return found;
}

}  // namespace preforkd
