#include "base/limits.h"

#include <cstdio>

namespace preforkd {
namespace {

const char* name_of(uint32_t Limits::*workers) {
  for (const LimitRow& row : kLimitRows)
    if (row.workers == workers) return row.name;
  return "";
}

}  // namespace

double value_of(const LimitRow& row, const Limits& limits) {
  return row.is_time() ? to_seconds(limits.*row.time) : limits.*row.workers;
}

Limits merged(const Limits& to, const Limits& from, uint32_t set) {
  Limits limits = to;
  for (const LimitRow& row : kLimitRows) {
    if (!(set & limit_bit(row))) continue;
    if (row.is_time())
      limits.*row.time = from.*row.time;
    else
      limits.*row.workers = from.*row.workers;
  }
  return limits;
}

std::string limit_names(const char* last) {
  std::vector<std::string> names;
  for (const LimitRow& row : kLimitRows) names.emplace_back(row.name);
  if (last) names.emplace_back(last);
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return text;
}

std::string expectation(const LimitRange& range, bool is_time) {
  char text[96];
  std::snprintf(text, sizeof text, "%s from %.10g to %.10g",
                is_time ? "a number of seconds" : "a whole number", range.least, range.most);
  return text;
}

std::string out_of_range(const Limits& limits) {
  for (const LimitRow& row : kLimitRows)
    if (!is_within(value_of(row, limits), row.range)) return row.name;
  return "";
}

std::vector<Contradiction> contradictions(const Limits& limits) {
  std::vector<Contradiction> found;
  for (const auto& [one, other] : kNotAbove) {
    const char *a = name_of(one), *b = name_of(other);
    if (limits.*one > limits.*other)
      found.push_back({a, b,
                       std::string(a) + " " + std::to_string(limits.*one) + " is above " + b + " " +
                           std::to_string(limits.*other)});
  }
  return found;
}

}  // namespace preforkd
