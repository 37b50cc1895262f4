// A reload from the loaded configuration to the verdicts: each changed pool's new generation is tried out beside what serves.
#include <utility>

#include "base/log.h"
#include "daemon/reload.h"

namespace preforkd {
namespace {

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

}  // namespace

void Reload::on_loaded(std::vector<std::string> errors) {
  if (errors.empty()) prepare(attempt_, errors);
  if (errors.empty()) return count_workers();
  Attempt refused = std::exchange(attempt_, {});
  stage_ = Stage::kIdle;
  pools_.turn_away();
  end(std::move(refused.on_done), joined(errors), refused.recycled);
}

// Each takes over with as many workers as there are.
void Reload::count_workers() {
  stage_ = Stage::kCounting;
  service_.extend_while_starting(attempt_.loaded.settings);
  std::vector<Pool*> tried;
  for (const PoolChange& change : attempt_.changes)
    if (change.needs_trial) tried.push_back(change.pool);
  const auto waiting = std::make_shared<size_t>(1 + tried.size());
  // (By its number: another reload may be under way by then.)
  auto counted = [this, waiting, asked = asked_] {
    if (--*waiting > 0 || stage_ != Stage::kCounting || asked_ != asked) return;
    // From a timer: a supervisor that dies answers, too, in the midst of something.
    next_timer_ = loop_.after(0, [this] { start_trials(); });
  };
  for (Pool* pool : tried) pool->count_workers(counted);
  counted();
}

void Reload::start_trials() {
  stage_ = Stage::kTrying;
  Attempt& a = attempt_;
  ++a.undecided;  // until all are launched
  std::string tried;
  for (size_t i = 0; i < a.changes.size() && a.trouble.empty(); ++i) {
    const auto& [plan, pool, is_new, needs_trial] = a.changes[i];
    if (!needs_trial) continue;
    const Limits limits = a.recycles() ? pool->limits() : plan.settings.limits;
    try {
      pool->try_out(
          plan, limits, a.recycles(),
          [this, i](const std::string& why, const std::string& key) { on_verdict(i, why, key); });
      ++a.undecided;
      tried += (tried.empty() ? ": trying out " : ", ") + plan.settings.name;
    } catch (const std::exception& e) {
      a.trouble = std::string("pool ") + plan.settings.name + ": " + e.what();
    }
  }
  --a.undecided;
  if (!a.trouble.empty())
    roll_back(a.trouble);
  else if (a.undecided == 0)
    commit();
  else
    service_.show(a.what + tried);
}

void Reload::on_verdict(size_t index, const std::string& reason, const std::string& key) {
  Attempt& a = attempt_;
  const PoolSettings& pool = a.changes[index].plan.settings;
  if (!reason.empty()) {
    const std::string blamed = key.empty() ? pool.server_key() : key;
    const std::string where = a.recycles() ? "" : a.loaded.where(index, blamed) + ": ";
    return roll_back(where + "pool " + pool.name + ": " +
                     (key.empty() ? "the new generation failed: " : "") + reason);
  }
  log({LogLevel::kInfo, pool.name, 0, "the new generation has passed its trial"});
  if (--a.undecided == 0) commit();
}

}  // namespace preforkd
