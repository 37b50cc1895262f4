#include "worker/host.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"

namespace preforkd {
namespace {

Intake* intake = nullptr;  // of this process

void write_log(int level, const char* text) {
  const int bounded = std::clamp(level, 3, 7);
  log({static_cast<LogLevel>(bounded), {}, 0, text ? text : ""});
}

void note(const char* text) {
  if (intake) intake->note(text ? text : "");
}

void extend(uint32_t milliseconds) {
  if (intake) intake->extend(monotonic_now() + milliseconds * kMillisecond);
}

void recycle() {
  if (intake) intake->recycle();
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

void host_works_for(Intake& its) { intake = &its; }

}  // namespace preforkd
