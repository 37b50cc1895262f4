// What control may ask of the daemon. The asker is unprivileged and not trusted: every field
// is checked here again. (Whether the client had the right to ask, control has checked: it alone can see the
// client's socket.)

#include "base/log.h"
#include "daemon/daemon.h"

namespace preforkd {
namespace {

constexpr uint32_t kOk = 200, kNotFound = 404, kConflict = 409, kStopping = 503;
constexpr Nanoseconds kLongestFor = 366 * 24 * 3600 * kSecond;

std::string trouble_with(const Limits& limits) {
  const std::string limit = out_of_range(limits);
  if (!limit.empty()) return limit + " is out of its range";
  std::string text;
  for (const auto& one : contradictions(limits)) text += (text.empty() ? "" : "; ") + one.text;
  return text;
}

uint32_t status_of(const std::string& refusal) { return refusal.empty() ? kOk : kConflict; }

}  // namespace

void Daemon::on_request(const Request& request, std::string bytes) {
  Pool* pool = pools_.find(request.pool);
  switch (request.ask) {
    case ControlAsk::kTotals:
      if (!pool) pool = pools_.find_leaving(request.pool);
      if (pool && request.set)
        pool->keep_figures(std::move(bytes));
      else if (pool)
        pool->close_generation(request.id, std::move(bytes));
      return;
    case ControlAsk::kStop:
      control_.answer(request.id, kOk, "stopping");
      return stop_.finish();
    case ControlAsk::kPong:  // the link's own business
      return;
    default:
      break;
  }
  if (!stop_.is_running()) return control_.answer(request.id, kStopping, "preforkd is stopping");
  const bool is_about_pool = request.ask <= ControlAsk::kRecycle;
  if (is_about_pool && !pool)
    return control_.answer(request.id, kNotFound, std::string("no pool ") + request.pool);
  if (is_about_pool) return on_request(request, *pool);
  if (request.ask == ControlAsk::kReload)
    return reload_.begin({}, [this, id = request.id](const std::string& refusal) {
      control_.answer(id, status_of(refusal), refusal.empty() ? "reloaded" : refusal);
    });
  reload_.give_way();
  upgrade_.begin(request.id);
}

void Daemon::on_request(const Request& request, Pool& pool) {
  auto answer = [this, id = request.id](const std::string& refusal, const char* done = "") {
    control_.answer(id, status_of(refusal), refusal.empty() ? done : refusal);
  };
  if (request.ask == ControlAsk::kLimits) return set_limits(request, pool);
  if (request.ask == ControlAsk::kRecycle)
    return reload_.begin(request.pool,
                         [answer](const std::string& refusal) { answer(refusal, "recycled"); });
  // It has looked at who serves, and would undo it.
  reload_.give_way();
  if (reload_.is_under_way()) return answer("a reload is under way: try again when it is done");
  if (request.ask == ControlAsk::kDrain) return answer(pool.drain());
  try {
    if (!pool.is_serving()) lost_files_.restore_at_once(pool);
  } catch (const std::exception& e) {
    return answer(e.what());
  }
  answer(pool.resume());
}

void Daemon::set_limits(const Request& request, Pool& pool) {
  const Limits limits = merged(pool.limits(), request.limits, request.set);
  std::string refusal = trouble_with(limits);
  if (refusal.empty() && limits.max > pool.capacity())
    refusal = "max " + std::to_string(limits.max) + " is above " + std::to_string(pool.capacity()) +
              ", for which this pool's shared memory was made: " +
              (pool.trial() ? "a reload is under way: try again when it is done"
                            : "raise workers.max in the file and reload");
  if (refusal.empty() && request.for_ns > kLongestFor) refusal = "for is longer than a year";
  // What is set for a while takes nothing from what lasts, and what is to last outlasts it.
  const Limits lasting = pool.lasting_limits();
  const Limits afterwards = request.for_ns ? lasting : merged(lasting, request.limits, request.set);
  if (const std::string later = trouble_with(afterwards); refusal.empty() && !later.empty())
    refusal = "when the limits are back to what they were: " + later;
  if (!refusal.empty()) return control_.answer(request.id, kConflict, refusal);
  pool.set_limits(limits, afterwards, request.for_ns,
                  [this, id = request.id] { control_.answer(id, kOk, ""); });
}

}  // namespace preforkd
