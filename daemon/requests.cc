// What control may ask of the daemon. The asker is unprivileged and not trusted: every field
// is checked here again. (Whether the client had the right to ask, control has checked: it alone can see the
// client's socket.)
#include <algorithm>

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
  ControlLink& link = *links_.front();
  Pool* pool = find_pool(request.pool);
  auto answer = [&](const std::string& refusal, const std::string& done = "") {
    link.answer(request.id, status_of(refusal), refusal.empty() ? done : refusal);
  };
  if (request.ask == ControlAsk::kTotals) {
    if (!pool) pool = find_leaver(request.pool);
    if (pool && request.set)
      pool->keep_figures(std::move(bytes));
    else if (pool)
      pool->close_generation(request.id, std::move(bytes));
    return;
  }
  if (phase_ != Phase::kRunning && request.ask != ControlAsk::kStop)
    return link.answer(request.id, kStopping, "preforkd is stopping");
  const bool about_pool = request.ask <= ControlAsk::kRecycle;
  if (about_pool && !pool)
    return link.answer(request.id, kNotFound, std::string("no pool ") + request.pool);
  // It has looked at who serves, and would undo it.
  const bool moves_pool = request.ask == ControlAsk::kDrain || request.ask == ControlAsk::kResume;
  if (moves_pool) restoring_gives_way();
  if (moves_pool && reload_)
    return link.answer(request.id, kConflict, "a reload is under way: try again when it is done");
  switch (request.ask) {
    case ControlAsk::kLimits:
      return set_limits(request, *pool);
    case ControlAsk::kDrain:
      return answer(pool->drain());
    case ControlAsk::kResume:
      return answer(resume(*pool));
    case ControlAsk::kRecycle:
      return reload(request.pool, [this, id = request.id](const std::string& refusal) {
        links_.front()->answer(id, status_of(refusal), refusal.empty() ? "recycled" : refusal);
      });
    case ControlAsk::kReload:
      return reload({}, [this, id = request.id](const std::string& refusal) {
        links_.front()->answer(id, status_of(refusal), refusal.empty() ? "reloaded" : refusal);
      });
    case ControlAsk::kStop:
      link.answer(request.id, kOk, "stopping");
      return finish();
    case ControlAsk::kUpgrade:
      return upgrade(request.id);
    case ControlAsk::kTotals:
    case ControlAsk::kPong:  // the link's own business
      break;
  }
}

std::string Daemon::resume(Pool& pool) {
  try {
    if (!pool.is_serving()) restore_files_of(pool);
  } catch (const std::exception& e) {
    return e.what();
  }
  return pool.resume();
}

void Daemon::set_limits(const Request& request, Pool& pool) {
  ControlLink& link = *links_.front();
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
  if (!refusal.empty()) return link.answer(request.id, kConflict, refusal);
  pool.set_limits(limits, afterwards, request.for_ns,
                  [this, id = request.id] { links_.front()->answer(id, kOk, ""); });
}

}  // namespace preforkd
