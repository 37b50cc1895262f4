// What control may ask of the daemon, and the reload. The asker is unprivileged and not trusted: every field
// is checked here again. (Whether the client had the right to ask, control has checked: it alone can see the
// client's socket.)
#include <algorithm>

#include "base/log.h"
#include "conf/builtin.h"
#include "daemon/daemon.h"

namespace preforkd {
namespace {

constexpr uint32_t kOk = 200, kNotFound = 404, kConflict = 409, kStopping = 503;
constexpr Nanoseconds kLongestFor = 366 * 24 * 3600 * kSecond;

Limits merged(const Limits& now, const Request& request) {
  Limits l = now;
  if (request.set & kSetMin) l.min = request.limits.min;
  if (request.set & kSetMax) l.max = request.limits.max;
  if (request.set & kSetMinSpare) l.min_spare = request.limits.min_spare;
  if (request.set & kSetMaxSpare) l.max_spare = request.limits.max_spare;
  if (request.set & kSetShrinkAfter) l.shrink_after = request.limits.shrink_after;
  return l;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

}  // namespace

void Daemon::on_request(const Request& request, std::string bytes) {
  ControlLink& link = *links_.front();
  Pool* pool = find_pool(request.pool);
  auto answer = [&](const std::string& refusal, const std::string& done = "") {
    link.answer(request.id, refusal.empty() ? kOk : kConflict, refusal.empty() ? done : refusal);
  };
  if (request.ask == ControlAsk::kTotals) {
    if (pool) pool->close_generation(request.id, std::move(bytes));
    return;
  }
  if (phase_ != Phase::kRunning && request.ask != ControlAsk::kStop)
    return link.answer(request.id, kStopping, "preforkd is stopping");
  const bool about_pool = request.ask <= ControlAsk::kRecycle;
  if (about_pool && !pool)
    return link.answer(request.id, kNotFound, std::string("no pool ") + request.pool);
  switch (request.ask) {
    case ControlAsk::kLimits:
      return set_limits(request, *pool);
    case ControlAsk::kDrain:
      return answer(pool->drain());
    case ControlAsk::kResume:
      return answer(pool->resume());
    case ControlAsk::kRecycle:
      return answer("recycling needs a new generation, which this version cannot make yet");
    case ControlAsk::kReload:
      return answer(reload(), "reloaded");
    case ControlAsk::kStop:
      link.answer(request.id, kOk, "stopping");
      return finish();
    case ControlAsk::kTotals:
      break;
  }
}

void Daemon::set_limits(const Request& request, Pool& pool) {
  ControlLink& link = *links_.front();
  const Limits limits = merged(pool.limits(), request);
  std::string refusal = contradiction(limits);
  if (refusal.empty() && limits.max > pool.capacity())
    refusal =
        "max " + std::to_string(limits.max) + " is above " + std::to_string(pool.capacity()) +
        ", for which this pool's shared memory was made: raise workers.max in the file and restart";
  if (refusal.empty() && request.for_ns > kLongestFor) refusal = "for is longer than a year";
  if (!refusal.empty()) return link.answer(request.id, kConflict, refusal);
  pool.set_limits(limits, request.for_ns,
                  [this, id = request.id] { links_.front()->answer(id, kOk, ""); });
}

// Everything is checked before anything is changed. Returns why it was refused, or "".
std::string Daemon::reload() {
  ++reloads_asked_;
  notify_.reloading();
  std::vector<std::string> errors;
  LoadedSettings loaded =
      file_.empty() ? load_settings_text(builtin_conf_text(), std::string(kBuiltinName), errors)
                    : load_settings(file_, errors);
  try {
    if (errors.empty()) check_handlers(paths_, loaded, errors);
  } catch (const std::exception& e) {  // no process or descriptor to be had for the check
    errors.emplace_back(e.what());
  }
  std::string refusal = errors.empty() ? reload_trouble(loaded) : joined(errors);
  if (refusal.empty()) {
    ++reloads_;
    LogLevel level = LogLevel::kInfo;
    if (log_level_from_name(loaded.settings.log_level, level)) set_log_level(level);
    settings_ = loaded.settings;
    for (size_t i = 0; i < pools_.size(); ++i) {
      pools_[i]->adopt_file_limits(settings_.pools[i]);
      if (!(pools_[i]->limits() == settings_.pools[i].limits))
        pools_[i]->set_limits(settings_.pools[i].limits, 0, {});
    }
    tell_daemon_facts();
    log_info("reloaded " + loaded.file);
  } else {
    log_error("reload refused, nothing was changed: " + refusal);
  }
  said_ready_ = false;  // says READY again, which ends the reload for systemd
  notify_state();
  return refusal;
}

// What this configuration would need that only a restart can give.
std::string Daemon::reload_trouble(const LoadedSettings& loaded) const {
  const Settings& next = loaded.settings;
  const std::string not_yet = ": a reload cannot do that yet; restart preforkd";
  if (!(next.control == settings_.control)) return loaded.file + ": control has changed" + not_yet;
  auto same_name = [](const PoolSettings& a, const PoolSettings& b) { return a.name == b.name; };
  if (!std::equal(next.pools.begin(), next.pools.end(), settings_.pools.begin(),
                  settings_.pools.end(), same_name))
    return loaded.file + ": pools were added, removed or moved" + not_yet;
  for (size_t i = 0; i < next.pools.size(); ++i) {
    PoolSettings was = settings_.pools[i];
    was.limits = next.pools[i].limits;
    if (!(was == next.pools[i]))
      return loaded.where(i, "name") + ": pool " + was.name + ": more than its limits has changed" +
             not_yet;
    if (next.pools[i].limits.max > pools_[i]->capacity())
      return loaded.where(i, "workers.max") + ": workers.max: is above " +
             std::to_string(pools_[i]->capacity()) +
             ", for which the pool's shared memory was made" + not_yet;
  }
  return "";
}

}  // namespace preforkd
