#include "tests/system/check.h"

#include <time.h>

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
  const timespec pause = to_timespec(3 * kMillisecond);
  Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  for (std::string reason;;) {
    bool last_time = monotonic_now() >= deadline;
    try {
      if (has_come()) return;
    } catch (const Failure& not_yet) {
      reason = std::string(" (") + not_yet.what() + ")";
    }
    if (last_time) throw Failure("waited in vain until " + event + reason, where);
    nanosleep(&pause, nullptr);
  }
}

}  // namespace preforkd::system_test
