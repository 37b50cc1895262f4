#include "tests/system/check.h"

#include <time.h>

#include <algorithm>

#include "base/clock.h"

namespace preforkd::system_test {

bool expect(bool met, const std::string& what, std::source_location where) {
  CU_assertImplementation(met, where.line(), what.c_str(), where.file_name(), where.function_name(),
                          CU_FALSE);
  return met;
}

bool expect_contains(const std::string& what, const std::string& text, const std::string& part,
                     std::source_location where) {
  return expect(text.find(part) != text.npos, what + ": no \"" + part + "\" in \"" + text + "\"",
                where);
}

void wait_until(const std::string& event, double seconds, const std::function<bool()>& has_come,
                std::source_location where) {
  constexpr Nanoseconds kPause = 3 * kMillisecond, kLongestPause = 1 * kSecond;
  Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  for (std::string reason;;) {
    const Nanoseconds began = monotonic_now();
    try {
      if (has_come()) return;
      reason.clear();
    } catch (const Failure& not_yet) {
      reason = std::string(" (") + not_yet.what() + ")";
    }
    if (began >= deadline) throw Failure("waited in vain until " + event + reason, where);
    // Who asks by whole programs leaves the processors to what is waited for.
    const timespec pause =
        to_timespec(std::clamp(2 * (monotonic_now() - began), kPause, kLongestPause));
    nanosleep(&pause, nullptr);
  }
}

}  // namespace preforkd::system_test
