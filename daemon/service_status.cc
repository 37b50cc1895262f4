#include "daemon/service_status.h"

#include <algorithm>
#include <ctime>

#include "base/log.h"

namespace preforkd {
namespace {

// While something is under way systemd is asked for this much more time, this often. Bit by bit: for a daemon
// that hangs meanwhile it does not wait much longer.
constexpr Nanoseconds kMoreTime = 15 * kSecond;
constexpr Nanoseconds kAskEvery = 2 * kSecond;
// Beyond timeouts.start, timeouts.drain: for everything around them.
constexpr Nanoseconds kGrace = 10 * kSecond;

std::string time_of_day(Nanoseconds from_now) {
  const time_t then = std::time(nullptr) + static_cast<time_t>(from_now / kSecond);
  tm local{};
  char text[64];
  localtime_r(&then, &local);
  return std::string(text, strftime(text, sizeof text, "%F %T", &local));
}

// A status has one line; the log has them all.
std::string first_line(const std::string& text) {
  const size_t end = text.find('\n');
  return end == std::string::npos ? text : text.substr(0, end) + " (and more: see the log)";
}

}  // namespace

// "1 of 2 pools running; echo is degraded: ..."
std::string ServiceStatus::pools_text(size_t& running, size_t& starting) const {
  std::string others;
  for (const auto& pool : pools_.configured()) {
    running += pool->state() == PoolState::kRunning;
    starting += pool->state() == PoolState::kStarting;
    if (pool->state() == PoolState::kRunning) continue;
    others += std::string("; ") + pool->settings().name + " is " + pool_state_name(pool->state());
    if (!pool->reason().empty()) others += ": " + pool->reason();
  }
  return std::to_string(running) + " of " + std::to_string(pools_.configured().size()) +
         " pools running" + others;
}

// A start after which no pool runs has failed: it is better to say so than to be there for nobody. (But where an address
// alone is missing, as on a standby: that may come at any time.)
bool ServiceStatus::show(bool is_start, const std::string& control_socket) {
  if (start_failed_) return true;
  size_t running = 0, starting = 0;
  std::string status = pools_text(running, starting);
  if (!refusal_.empty()) status += "; " + first_line(refusal_);
  if (said_ready_ || starting > 0) {
    notify_.status(said_ready_ ? status : "Starting: " + status);
    return true;
  }
  const auto& pools = pools_.configured();
  const bool serves = std::any_of(pools.begin(), pools.end(), [](const auto& p) {
    return p->has_workers() || p->awaits_address();
  });
  if (!serves && !pools.empty() && is_start) {
    log_error("the start has failed, preforkd ends: " + status);
    start_failed_ = true;
    return false;
  }
  said_ready_ = true;
  extend_until(0);
  if (is_start) log_info("ready: " + status + "; control socket " + control_socket);
  notify_.ready(status);
  return true;
}

void ServiceStatus::begin_reload(const std::string& what) { notify_.reloading(what); }

void ServiceStatus::end_reload(const std::string& refusal) {
  refusal_ = refusal;
  if (!is_stopping_) said_ready_ = false;
}

void ServiceStatus::say_stopping(Nanoseconds patience) {
  is_stopping_ = true;
  end_time_ = patience ? time_of_day(patience) : "";
  notify_.stopping(stopping_text());
  extend_until(monotonic_now() + patience + kGrace);
}

// How many there are is known when nobody accepts any more: who is left then serves.
std::string ServiceStatus::stopping_text() const {
  if (end_time_.empty()) return "Stopping at once: connections in service are ended";
  uint64_t served = 0;
  bool may_accept = false;
  for (const Pool* pool : pools_.all())
    for (const Generation* g : pool->all_generations()) {
      served += g->workers();
      may_accept |= g->may_accept();
    }
  return "Stopping: connections in service" +
         (may_accept ? " are finished first" : ": " + std::to_string(served)) +
         "; what is not done by " + end_time_ + " is ended";
}

void ServiceStatus::resume(const std::string& refusal, bool said_ready) {
  refusal_ = refusal;
  said_ready_ = said_ready;
}

// --- time ----------------------------------------------------------------------------------------

void ServiceStatus::extend_while_starting(const Settings& settings) {
  Nanoseconds longest = 0;
  for (const PoolSettings& pool : settings.pools) longest = std::max(longest, pool.start_timeout);
  extend_until(monotonic_now() + longest + kGrace);
}

void ServiceStatus::extend_until(Nanoseconds deadline) {
  extend_until_ = deadline;
  extend_timer_ = {};
  extend();
}

void ServiceStatus::extend() {
  if (monotonic_now() >= extend_until_) return;
  notify_.extend_timeout(kMoreTime);
  extend_timer_ = loop_.after(kAskEvery, [this] { extend(); });
  if (!is_stopping_) return;
  for (Pool* pool : pools_.all()) pool->ping();  // for how many are left, next time
  show_stopping();
}

void ServiceStatus::feed_watchdog() {
  const Nanoseconds interval = Notify::watchdog_interval();
  if (interval == 0) return;
  notify_.watchdog();
  for (const auto& pool : pools_.configured()) pool->ping();
  watchdog_timer_ = loop_.after(interval / 2, [this] { feed_watchdog(); });
}

}  // namespace preforkd
