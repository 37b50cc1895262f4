// How long to wait after failures, one after the other: at first not at all, or `first`, then twice as long each time, up to
// `longest`. Pure: who has failed counts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace preforkd {

struct Backoff {
  Nanoseconds first, longest;

  // None: 0. The first: `first`.
  constexpr Nanoseconds after(uint32_t failures) const {
    constexpr uint32_t kMostDoublings = 30;  // more than lie between any two of them
    if (failures == 0) return 0;
    return std::min(first << std::min(failures - 1, kMostDoublings), longest);
  }
};

// ±25 %, so that those who failed together do not come back in step. `random`: any number.
constexpr Nanoseconds spread(Nanoseconds pause, uint64_t random) {
  return pause * 3 / 4 + pause / 2 * (random % 1024) / 1024;
}

}  // namespace preforkd
