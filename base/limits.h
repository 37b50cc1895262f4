// The limits of a pool that may be moved while it runs. Owned by the daemon, which sends them to the
// supervisor; decide() works by them; the control socket shows and changes them.
#pragma once

#include <cstdint>
#include <iterator>
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
inline constexpr double kMaxWorkers = 65536;  // kMaxCapacity of shm/region.h
inline constexpr double kTenYears = 10.0 * 365 * 24 * 3600;

constexpr bool is_within(double value, const LimitRange& range) {
  return value >= range.least && value <= range.most;
}

// Every limit, one row each. The file (conf/keys.cc), preforkctl, the control socket, what the daemon tells control, status
// and metrics go by this table. A row's place is its bit in a Request (ipc/control_messages.h).
struct LimitRow {
  const char* name;
  uint32_t Limits::*workers;  // a number of workers; null: it is a time
  Nanoseconds Limits::*time;
  LimitRange range;
  const char* help;

  constexpr bool is_time() const { return workers == nullptr; }
};
inline constexpr LimitRow kLimitRows[] = {
    {"min", &Limits::min, nullptr, {0, kMaxWorkers}, "workers that always exist"},
    {"max", &Limits::max, nullptr, {1, kMaxWorkers}, "workers that may exist at once"},
    {"min_spare",
     &Limits::min_spare,
     nullptr,
     {0, kMaxWorkers},
     "idle workers kept ready for the next connection"},
    {"max_spare",
     &Limits::max_spare,
     nullptr,
     {0, kMaxWorkers},
     "idle workers kept above the recent peak when the pool shrinks"},
    {"shrink_after",
     nullptr,
     &Limits::shrink_after,
     {0.01, kTenYears},
     "a surplus that lasted so long is let go"},
};

constexpr uint32_t limit_bit(const LimitRow& row) { return 1u << (&row - std::begin(kLimitRows)); }

// In workers, or in seconds.
double value_of(const LimitRow& row, const Limits& limits);

// `to`, with those of `from` that are in `set` (limit_bit()).
Limits merged(const Limits& to, const Limits& from, uint32_t set);

// "min, max, min_spare, max_spare or shrink_after"; with `last` that comes last.
std::string limit_names(const char* last = nullptr);

// "a whole number from 1 to 65536", "a number of seconds from 0.01 to 315360000".
std::string expectation(const LimitRange& range, bool is_time);

// The first limit that is out of its range, or "".
std::string out_of_range(const Limits& limits);

// What may not be above what.
inline constexpr uint32_t Limits::*kNotAbove[][2] = {{&Limits::min, &Limits::max},
                                                     {&Limits::min_spare, &Limits::max},
                                                     {&Limits::min_spare, &Limits::max_spare}};
struct Contradiction {
  const char *one, *other;  // the limits that do not go together
  std::string text;         // "min 5 is above max 4"
};
// Every way in which these limits contradict each other.
std::vector<Contradiction> contradictions(const Limits& limits);

}  // namespace preforkd
