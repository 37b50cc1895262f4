// Time. All times inside preforkd are nanoseconds of CLOCK_MONOTONIC in a uint64_t; seconds as
// floating point exist only where a person or a JSON document meets them.
#pragma once

#include <time.h>

#include <cstdint>

#include "base/system_call.h"

namespace preforkd {

using Nanoseconds = uint64_t;

constexpr Nanoseconds kMicrosecond = 1'000;
constexpr Nanoseconds kMillisecond = 1'000'000;
constexpr Nanoseconds kSecond = 1'000'000'000;
constexpr Nanoseconds kNever = ~uint64_t{0};  // a deadline that does not come

inline Nanoseconds monotonic_now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * kSecond + static_cast<uint64_t>(t.tv_nsec);
}

// The same past libc and the vdso, of which a fresh process has no page yet (base/system_call.h).
inline Nanoseconds monotonic_now_of_kernel() {
  timespec t{};
  system_call(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * kSecond + static_cast<uint64_t>(t.tv_nsec);
}

constexpr double to_seconds(Nanoseconds t) { return static_cast<double>(t) / 1e9; }
constexpr Nanoseconds from_seconds(double s) {
  return s <= 0 ? 0 : static_cast<Nanoseconds>(s * 1e9 + 0.5);
}

inline timespec to_timespec(Nanoseconds t) {
  return {static_cast<time_t>(t / kSecond), static_cast<long>(t % kSecond)};
}

// Or until a signal comes.
inline void sleep_for(Nanoseconds t) {
  const timespec pause = to_timespec(t);
  nanosleep(&pause, nullptr);
}

}  // namespace preforkd
