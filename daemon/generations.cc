#include "daemon/generations.h"

#include <algorithm>
#include <utility>

namespace preforkd {
namespace {

bool is_over(const std::unique_ptr<Generation>& g) {
  return g->state() == Generation::State::kOver;
}

}  // namespace

void Generations::add(std::unique_ptr<Generation> generation) {
  all_.push_back(std::move(generation));
}

void Generations::add_abandoned(std::unique_ptr<Generation> generation) {
  all_.insert(all_.empty() ? all_.end() : all_.end() - 1, std::move(generation));
}

Generation* Generations::numbered(uint32_t number) const {
  for (const auto& g : all_)
    if (g->number() == number) return g.get();
  return nullptr;
}

Generation* Generations::current() const {
  Generation* g = newest();
  return g && g->has_supervisor() ? g : nullptr;
}

Generation* Generations::in_charge() const {
  for (auto g = all_.rbegin(); g != all_.rend(); ++g)
    if ((*g)->serves() && !(*g)->is_on_trial()) return g->get();
  return nullptr;
}

Generation* Generations::supervised_by(pid_t supervisor) const {
  for (const auto& g : all_)
    if (g->is_supervised_by(supervisor)) return g.get();
  return nullptr;
}

Generation* Generations::owner_of(pid_t child, pid_t session) const {
  for (const auto& g : all_)
    if (g->owns(child, session)) return g.get();
  return nullptr;
}

bool Generations::leavers_accept() const {
  return std::any_of(all_.begin(), all_.end(),
                     [](const auto& g) { return g->may_accept() && !g->serves(); });
}

bool Generations::are_over() const { return std::all_of(all_.begin(), all_.end(), is_over); }

bool Generations::close(uint32_t number) {
  return std::erase_if(all_,
                       [number](const auto& g) { return g->number() == number && is_over(g); }) > 0;
}

std::optional<uint32_t> Generations::drop_oldest_over(size_t most) {
  if (static_cast<size_t>(std::count_if(all_.begin(), all_.end(), is_over)) <= most) return {};
  const auto oldest = std::find_if(all_.begin(), all_.end(), is_over);
  const uint32_t number = (*oldest)->number();
  all_.erase(oldest);
  return number;
}

size_t Generations::count_lost() const {
  return static_cast<size_t>(
      std::count_if(all_.begin(), all_.end(), [](const auto& g) { return g->is_lost(); }));
}

void Generations::end_oldest_lost() const {
  const auto oldest = std::find_if(
      all_.begin(), all_.end(), [](const auto& g) { return g->is_lost() && !g->is_ended_early(); });
  if (oldest != all_.end()) (*oldest)->end_early();
}

}  // namespace preforkd
