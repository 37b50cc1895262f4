#include "base/limits.h"

#include <cstdio>

namespace preforkd {
namespace {

std::string from_to(const LimitRange& range) {
  char text[64];
  std::snprintf(text, sizeof text, " from %.10g to %.10g", range.least, range.most);
  return text;
}

}  // namespace

std::string workers_within(const LimitRange& range) { return "a whole number" + from_to(range); }
std::string seconds_within(const LimitRange& range) {
  return "a number of seconds" + from_to(range);
}

std::string out_of_range(const Limits& l) {
  if (!is_within(l.min, kRangeOfOtherWorkers)) return "min";
  if (!is_within(l.max, kRangeOfMax)) return "max";
  if (!is_within(l.min_spare, kRangeOfOtherWorkers)) return "min_spare";
  if (!is_within(l.max_spare, kRangeOfOtherWorkers)) return "max_spare";
  if (!is_within(to_seconds(l.shrink_after), kRangeOfShrinkAfter)) return "shrink_after";
  return "";
}

std::vector<Contradiction> contradictions(const Limits& l) {
  std::vector<Contradiction> found;
  auto expect_not_above = [&](const char* a, uint32_t x, const char* b, uint32_t y) {
    if (x > y)
      found.push_back(
          {a, b,
           std::string(a) + " " + std::to_string(x) + " is above " + b + " " + std::to_string(y)});
  };
  expect_not_above("min", l.min, "max", l.max);
  expect_not_above("min_spare", l.min_spare, "max", l.max);
  expect_not_above("min_spare", l.min_spare, "max_spare", l.max_spare);
  return found;
}

}  // namespace preforkd
