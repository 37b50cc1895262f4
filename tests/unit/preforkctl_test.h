// What the tests of preforkctl share.
#pragma once

#include <CUnit/CUnit.h>

#include <cstdio>
#include <functional>
#include <string>

namespace preforkd {

// Compares texts and shows both where they differ: "not equal" alone helps nobody.
inline void expect_text(const std::string& found, const std::string& expected) {
  if (found != expected)
    std::fprintf(stderr, "\nfound:    [%s]\nexpected: [%s]\n", found.c_str(), expected.c_str());
  CU_ASSERT_TRUE(found == expected);
}

inline bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) != text.npos) return true;
  std::fprintf(stderr, "\nfound:    [%s]\nwithout:  [%s]\n", text.c_str(), part.c_str());
  return false;
}

template <class Error>
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "(no error)";
}

inline constexpr char kPool[] = R"({"name":"echo","state":"running","generation":1,
  "listen":["127.0.0.1:7007","[::1]:7007"],
  "workers":{"total":6,"starting":0,"idle":4,"busy":2,"retiring":0},
  "limits":{"min":4,"max":256,"min_spare":2,"max_spare":8,"shrink_after":2.5},
  "backlog":{"queued":0,"limit":4096},
  "connections":{"accepted":120,"served":117,"failed":0,"aborted":1,"rejected":0,"active":2},
  "utilization":{"now":0.33,"1s":0.2,"10s":0.1,"60s":0.05},
  "peak_busy":5,"seconds_at_max":0.0,
  "lifetime":{"forked":9,"retired":3,"crashed":0,"timed_out":0,"recycled":0},
  "service_time_us":{"p50":80,"p90":120,"p99":null,"max":900}})";

inline std::string status_of(const std::string& pools) {
  return R"({"version":"0.1.0","pid":4242,"uptime_seconds":12.3,"reloads":0,"pools":[)" + pools +
         "]}";
}

}  // namespace preforkd
