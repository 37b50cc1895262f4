#include "control/limits_patch.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ipc/control_messages.h"

namespace preforkd {
namespace {

using nlohmann::json;

constexpr double kLongest = 1e9;  // seconds, 31 years: what is longer overflows somewhere

struct Field {
  const char* name;
  uint32_t bit;
  uint32_t Limits::*whole;         // a number of workers ...
  Nanoseconds LimitsPatch::*time;  // ... or a time outside of `limits`; neither: shrink_after
  LimitRange range;
};
constexpr Field kFields[] = {
    {"min", kSetMin, &Limits::min, nullptr, kRangeOfOtherWorkers},
    {"max", kSetMax, &Limits::max, nullptr, kRangeOfMax},
    {"min_spare", kSetMinSpare, &Limits::min_spare, nullptr, kRangeOfOtherWorkers},
    {"max_spare", kSetMaxSpare, &Limits::max_spare, nullptr, kRangeOfOtherWorkers},
    {"shrink_after", kSetShrinkAfter, nullptr, nullptr, kRangeOfShrinkAfter},
    {"for", 0, nullptr, &LimitsPatch::for_ns, {0.01, kLongest}},
};

std::string take_whole(const Field& field, const json& value, LimitsPatch& patch) {
  if (!value.is_number_unsigned() || !is_within(value.get<double>(), field.range))
    return std::string(field.name) + ": expected " + workers_within(field.range);
  patch.limits.*field.whole = value.get<uint32_t>();
  return "";
}

std::string take_time(const Field& field, const json& value, LimitsPatch& patch) {
  if (!value.is_number() || !is_within(value.get<double>(), field.range))
    return std::string(field.name) + ": expected " + seconds_within(field.range);
  (field.time ? patch.*field.time : patch.limits.shrink_after) = from_seconds(value.get<double>());
  return "";
}

json parse(std::string_view body) { return json::parse(body, nullptr, false); }

// The library prints bytes that are no UTF-8 only when told how.
std::string quoted(const std::string& name) {
  return json(name).dump(-1, ' ', true, json::error_handler_t::replace);
}

}  // namespace

std::variant<LimitsPatch, std::string> parse_limits_patch(std::string_view body) {
  json object = parse(body);
  if (object.is_discarded()) return "the body is not JSON";
  if (!object.is_object()) return "the body is not a JSON object";
  LimitsPatch patch;
  for (const auto& member : object.items()) {
    const std::string& name = member.key();
    auto field = std::find_if(std::begin(kFields), std::end(kFields),
                              [&](const Field& f) { return f.name == name; });
    if (field == std::end(kFields))
      return quoted(name) +
             " is not a limit: expected min, max, min_spare, max_spare, shrink_after or for";
    std::string complaint = field->whole ? take_whole(*field, member.value(), patch)
                                         : take_time(*field, member.value(), patch);
    if (!complaint.empty()) return complaint;
    patch.set |= field->bit;
  }
  if (patch.set == 0)
    return "nothing to change: expected min, max, min_spare, max_spare or shrink_after";
  return patch;
}

std::string refuse_body(std::string_view body) {
  if (body.empty()) return "";
  json object = parse(body);
  if (object.is_discarded()) return "the body is not JSON";
  return object.is_object() && object.empty() ? "" : "this request takes no body, or {}";
}

}  // namespace preforkd
