#include "daemon/pool_set.h"

#include <algorithm>
#include <utility>

namespace preforkd {
namespace {

Pool* find_in(const PoolSet::Pools& pools, const std::string& name) {
  const auto found = std::find_if(pools.begin(), pools.end(),
                                  [&](const auto& pool) { return pool->settings().name == name; });
  return found == pools.end() ? nullptr : found->get();
}

}  // namespace

std::vector<Pool*> PoolSet::all() const {
  std::vector<Pool*> all;
  for (const auto* pools : {&configured_, &leaving_})
    for (const auto& pool : *pools) all.push_back(pool.get());
  return all;
}

bool PoolSet::any(const std::function<bool(Pool&)>& is_it) const {
  for (const auto* pools : {&configured_, &leaving_, &coming_})
    for (const auto& pool : *pools)
      if (is_it(*pool)) return true;
  return false;
}

Pool* PoolSet::find(const std::string& name) const { return find_in(configured_, name); }
Pool* PoolSet::find_leaving(const std::string& name) const { return find_in(leaving_, name); }

Pool* PoolSet::with(const std::shared_ptr<Listener>& listener) const {
  for (const auto& pool : configured_)
    if (contains(pool->listeners(), listener)) return pool.get();
  return nullptr;
}

std::vector<std::string> PoolSet::shown_names() const {
  std::vector<std::string> names;
  for (const auto& pool : configured_) names.push_back(pool->settings().name);
  for (const auto& pool : leaving_)
    if (pool->state() == PoolState::kDraining) names.push_back(pool->settings().name);
  return names;
}

Listeners PoolSet::listeners() const {
  Listeners all;
  for (const auto& pool : configured_)
    all.insert(all.end(), pool->listeners().begin(), pool->listeners().end());
  return all;
}

Nanoseconds PoolSet::longest_drain() const {
  Nanoseconds longest = 0;
  for (const Pool* pool : all()) longest = std::max(longest, pool->settings().drain_timeout);
  return longest;
}

bool PoolSet::is_over() const {
  return leaving_.empty() && std::all_of(configured_.begin(), configured_.end(),
                                         [](const auto& pool) { return pool->is_over(); });
}

Pool& PoolSet::add(PoolPlan plan, LogLevel log_level) {
  configured_.push_back(std::make_unique<Pool>(loop_, owner_, paths_, std::move(plan), log_level));
  return *configured_.back();
}

Pool& PoolSet::add(PoolPlan plan, LogLevel log_level, const PoolRecord& record,
                   const Listeners& all) {
  configured_.push_back(
      std::make_unique<Pool>(loop_, owner_, paths_, std::move(plan), log_level, record, all));
  return *configured_.back();
}

Pool& PoolSet::add_coming(PoolPlan plan, LogLevel log_level) {
  coming_.push_back(std::make_unique<Pool>(loop_, owner_, paths_, std::move(plan), log_level));
  return *coming_.back();
}

std::vector<Pool*> PoolSet::arrange(const std::vector<Pool*>& next) {
  Pools arranged(next.size());
  for (auto* pools : {&configured_, &leaving_, &coming_})
    for (auto& pool : *pools) {
      const auto place = std::find(next.begin(), next.end(), pool.get());
      if (place != next.end())
        arranged[static_cast<size_t>(place - next.begin())] = std::move(pool);
    }
  Pools before = std::exchange(configured_, std::move(arranged));
  std::erase(before, nullptr);
  std::erase(leaving_, nullptr);
  coming_.clear();
  std::vector<Pool*> left_out;
  for (auto& pool : before) {
    left_out.push_back(pool.get());
    leaving_.push_back(std::move(pool));
  }
  return left_out;
}

void PoolSet::turn_away() {
  for (auto& pool : std::exchange(coming_, {})) {
    if (pool->trial()) pool->abandon();
    if (!pool->is_over()) leaving_.push_back(std::move(pool));
  }
}

void PoolSet::forget(const std::function<bool(const Pool&)>& may_be_forgotten) {
  std::erase_if(leaving_, [&](const auto& pool) { return may_be_forgotten(*pool); });
}

}  // namespace preforkd
