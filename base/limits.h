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

// What a limit may be: one rule for the file, for the control socket, and for the daemon, which does not trust
// control.
struct LimitRange {
  double least, most;  // workers, or seconds
};
inline constexpr double kMaxWorkers = 65536;  // kMaxCapacity of shm/layout.h
inline constexpr LimitRange kRangeOfMax = {1, kMaxWorkers}, kRangeOfOtherWorkers = {0, kMaxWorkers},
                            kRangeOfShrinkAfter = {0.01, 10.0 * 365 * 24 * 3600};

constexpr bool is_within(double value, const LimitRange& range) {
  return value >= range.least && value <= range.most;
}

// "a whole number from 1 to 65536", "a number of seconds from 0.01 to 315360000".
std::string workers_within(const LimitRange& range);
std::string seconds_within(const LimitRange& range);

// The first limit that is out of its range, or "".
std::string out_of_range(const Limits& l);

struct Contradiction {
  const char *one, *other;  // the limits that do not go together
  std::string text;         // "min 5 is above max 4"
};

// Every way in which these limits contradict each other.
std::vector<Contradiction> contradictions(const Limits& l);

}  // namespace preforkd
