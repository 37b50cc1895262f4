#include "control/limits_patch.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace preforkd {
namespace {

using nlohmann::json;

constexpr LimitRange kRangeOfFor = {0.01, 1e9};  // seconds: what is longer overflows somewhere

// What was expected, or "".
std::string take(const json& value, const LimitRange& range, uint32_t& into) {
  if (!value.is_number_unsigned() || !is_within(value.get<double>(), range))
    return expectation(range, false);
  into = value.get<uint32_t>();
  return "";
}

std::string take(const json& value, const LimitRange& range, Nanoseconds& into) {
  if (!value.is_number() || !is_within(value.get<double>(), range)) return expectation(range, true);
  into = from_seconds(value.get<double>());
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
    std::string expected;
    if (name == "for") {
      expected = take(member.value(), kRangeOfFor, patch.for_ns);
    } else {
      const auto row = std::find_if(std::begin(kLimitRows), std::end(kLimitRows),
                                    [&](const LimitRow& r) { return r.name == name; });
      if (row == std::end(kLimitRows))
        return quoted(name) + " is not a limit: expected " + limit_names("for");
      expected = row->is_time() ? take(member.value(), row->range, patch.limits.*row->time)
                                : take(member.value(), row->range, patch.limits.*row->workers);
      patch.set |= limit_bit(*row);
    }
    if (!expected.empty()) return name + ": expected " + expected;
  }
  if (patch.set == 0) return "nothing to change: expected " + limit_names();
  return patch;
}

std::string refuse_body(std::string_view body) {
  if (body.empty()) return "";
  json object = parse(body);
  if (object.is_discarded()) return "the body is not JSON";
  return object.is_object() && object.empty() ? "" : "this request takes no body, or {}";
}

}  // namespace preforkd
