// What the daemon tells systemd, and with it a person who asks `systemctl status`.
#include <algorithm>
#include <ctime>

#include "base/log.h"
#include "daemon/daemon.h"

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

// READY as soon as every pool has had its chance (timeouts.start): one that cannot run, or hangs, does not keep the
// others waiting. A start after which none runs has failed: it is better to say so than to be there for nobody. (But
// where an address alone is missing, as on a standby: that may come at any time.)
void Daemon::notify_state() {
  if (phase_ == Phase::kFinishing) return notify_.status(stopping_text());
  if (pools_.size() != settings_.pools.size() || links_.empty() || phase_ != Phase::kRunning ||
      reload_ || settling_ || start_failed_)
    return;
  std::string status;
  size_t running = 0, starting = 0;
  for (const auto& pool : pools_) {
    running += pool->state() == PoolState::kRunning;
    starting += pool->state() == PoolState::kStarting;
    if (pool->state() == PoolState::kRunning) continue;
    status += std::string("; ") + pool->settings().name + " is " + pool_state_name(pool->state());
    if (!pool->reason().empty()) status += ": " + pool->reason();
  }
  status =
      std::to_string(running) + " of " + std::to_string(pools_.size()) + " pools running" + status;
  if (!refusal_.empty()) status += "; " + first_line(refusal_);
  if (said_ready_) return notify_.status(status);
  if (starting > 0) return notify_.status("Starting: " + status);
  const bool serves = std::any_of(pools_.begin(), pools_.end(), [](const auto& p) {
    return p->has_workers() || p->awaits_address();
  });
  if (!serves && !pools_.empty() && reloads_asked_ == 0) return fail_start(status);
  said_ready_ = true;
  extend_until(0);
  if (reloads_asked_ == 0)
    log_info("ready: " + status + "; control socket " + control_path_.path());
  notify_.ready(status);
}

void Daemon::fail_start(const std::string& status) {
  log_error("the start has failed, preforkd ends: " + status);
  start_failed_ = true;
  reload_timer_ =
      loop_.after(0, [this] { stop_now(); });  // not under the hands of the pool that tells
}

void Daemon::say_stopping(Nanoseconds patience) {
  end_time_ = patience ? time_of_day(patience) : "";
  notify_.stopping(stopping_text());
  extend_until(monotonic_now() + patience + kGrace);
}

// How many there are is known when nobody accepts any more: who is left then serves.
std::string Daemon::stopping_text() const {
  if (end_time_.empty()) return "Stopping at once: connections in service are ended";
  uint64_t served = 0;
  bool may_accept = false;
  for (const auto* pools : {&pools_, &leaving_})
    for (const auto& pool : *pools)
      for (const Generation* g : pool->all_generations()) {
        served += g->workers();
        may_accept |= g->may_accept();
      }
  return "Stopping: connections in service" +
         (may_accept ? " are finished first" : ": " + std::to_string(served)) +
         "; what is not done by " + end_time_ + " is ended";
}

// --- time ----------------------------------------------------------------------------------------

// As long as timeouts.start allows, which bounds each worker's start, and a reload's trials.
void Daemon::extend_while_starting(const Settings& settings) {
  Nanoseconds longest = 0;
  for (const PoolSettings& pool : settings.pools) longest = std::max(longest, pool.start_timeout);
  extend_until(monotonic_now() + longest + kGrace);
}

// Until then, at the latest; ready() ends it. A daemon with nothing under way is not woken for this.
void Daemon::extend_until(Nanoseconds deadline) {
  extend_until_ = deadline;
  extend_timer_ = {};
  extend();
}

void Daemon::extend() {
  if (monotonic_now() >= extend_until_) return;
  notify_.extend_timeout(kMoreTime);
  extend_timer_ = loop_.after(kAskEvery, [this] { extend(); });
  if (phase_ != Phase::kFinishing) return;
  for (const auto* pools : {&pools_, &leaving_})
    for (const auto& pool : *pools) pool->ping();  // for how many are left, next time
  notify_.status(stopping_text());
}

void Daemon::feed_watchdog() {
  Nanoseconds interval = Notify::watchdog_interval();
  if (interval == 0) return;
  notify_.watchdog();
  for (auto& pool : pools_) pool->ping();
  watchdog_timer_ = loop_.after(interval / 2, [this] { feed_watchdog(); });
}

}  // namespace preforkd
