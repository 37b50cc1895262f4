#include "worker/host.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "worker/intake.h"

namespace preforkd {
namespace {

void write_log(int level, const char* text) {
  const int bounded = std::clamp(level, 3, 7);
  log({static_cast<LogLevel>(bounded), {}, 0, text ? text : ""});
}

void note(const char* text) {
  if (Intake* intake = Intake::of_this_process()) intake->note(text ? text : "");
}

void extend(uint32_t milliseconds) {
  if (Intake* intake = Intake::of_this_process())
    intake->extend(monotonic_now() + milliseconds * kMillisecond);
}

void recycle() {
  if (Intake* intake = Intake::of_this_process()) intake->recycle();
}

}  // namespace

const preforkd_host& host_functions() {
  static const preforkd_host functions = {
      PREFORKD_ABI, sizeof(preforkd_host), "", "{}", write_log, note, extend, recycle};
  return functions;
}

preforkd_host make_host(const std::string& pool, const std::string& settings) {
  return {
      PREFORKD_ABI, sizeof(preforkd_host), pool.c_str(), settings.c_str(), write_log, note, extend,
      recycle};
}

}  // namespace preforkd
