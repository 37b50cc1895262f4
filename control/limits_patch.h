// The bodies of requests that change something. Pure: text in, values or a complaint out.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/limits.h"

namespace preforkd {

struct LimitsPatch {
  uint32_t set = 0;  // which of `limits` were given (limit_bit())
  Limits limits;
  Nanoseconds for_ns = 0;  // 0: for good
};

// {"min": 8, "shrink_after": 2.5, "for": 600}: any of the limits, and for how long. The complaint names
// the member and what was expected. Whether the limits contradict each other is for the daemon to say,
// who knows those that were not given.
std::variant<LimitsPatch, std::string> parse_limits_patch(std::string_view body);

// A request that takes no body accepts none, and {}. Returns the complaint, or "".
std::string refuse_body(std::string_view body);

}  // namespace preforkd
