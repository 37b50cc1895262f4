// Values as a person reads them on a terminal. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/edit_distance.h"

namespace preforkd {

// The text with everything escaped that could steer a terminal or pretend to be another text:
// control characters (C0, DEL, C1), bidirectional overrides, line separators, and bytes that are
// not UTF-8. What is left is printable UTF-8.
std::string printable(std::string_view text);

// The same for a text of several lines: newlines and tabs stay.
std::string printable_lines(std::string_view text);

// How many columns a printable text takes, one a code point.
size_t columns_of(std::string_view text);

// "0 s", "80 µs", "1.2 ms", "12.3 s", "4m 5s", "3h 4m", "3d 4h"; "-" for what is no length of time.
std::string duration(double seconds);

// A ratio: "0%", "0.4%", "33%"; "-" for what is none.
std::string percent(double ratio);

// Seconds since 1970 in the local time zone, "2026-01-31 23:59:59"; "-" for what is no such time.
std::string local_time(double epoch_seconds);

// "did you mean 'status'?" with a comma before it, or "" if no candidate is near to what was typed.
template <class Names>
std::string did_you_mean(std::string_view typed, const Names& candidates);

template <class Names>
std::string did_you_mean(std::string_view typed, const Names& candidates) {
  constexpr size_t kNear = 2;
  std::string_view best;
  size_t best_distance = kNear + 1;
  for (std::string_view candidate : candidates) {
    size_t distance = edit_distance(typed, candidate);
    if (distance < best_distance && distance < candidate.size()) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best.empty() ? "" : ", did you mean '" + std::string(best) + "'?";
}

}  // namespace preforkd
