// A pool over an upgrade in place (daemon/takeover.h): what is written down of it, and how it goes on from that.
#include "daemon/pool.h"

#include <algorithm>

namespace preforkd {

void Pool::say_put_off() {
  for (const auto& g : generations_) g->say_put_off();
}

PoolRecord Pool::record(const ListenerIndex& index) const {
  auto indices = [&index](const Listeners& listeners) {
    std::vector<size_t> found;
    for (const auto& listener : listeners) found.push_back(index(listener));
    return found;
  };
  PoolRecord r;
  r.name = plan_.settings.name;
  r.reason = reason_;
  r.listeners = indices(plan_.listeners);
  r.dropped = indices(dropped_);
  r.limits = limits_;
  r.limits_before = limits_before_;
  r.revert_at = revert_timer_.is_set() ? revert_at_ : 0;
  r.launched_at = launched_at_;
  r.pause = kRestart.after(failures_);
  r.state = static_cast<int>(state_);
  r.next_generation = next_generation_;
  r.capacity = capacity_;
  r.goes_without = plan_.goes_without;
  r.base.assign(base_.begin(), base_.end());
  for (const auto& g : generations_) {
    r.generations.push_back(g->record());
    r.generations.back().sockets = indices(g->sockets());
  }
  return r;
}

Pool::Pool(EventLoop& loop, PoolOwner& owner, const Paths& paths, PoolPlan plan, LogLevel log_level,
           const PoolRecord& r, const Listeners& all)
    : loop_(loop),
      owner_(owner),
      paths_(paths),
      plan_(std::move(plan)),
      log_level_(log_level),
      limits_(r.limits),
      limits_before_(r.limits_before),
      next_generation_(r.next_generation),
      capacity_(r.capacity),
      base_(r.base.begin(), r.base.end()),
      state_(static_cast<PoolState>(r.state)),
      reason_(r.reason),
      launched_at_(r.launched_at) {
  while (kRestart.after(failures_) < std::min(r.pause, kRestart.longest)) ++failures_;
  plan_.goes_without = r.goes_without;
  GenerationOwner& self = *this;
  for (const GenerationRecord& g : r.generations) {
    Listeners sockets;
    for (size_t i : g.sockets) sockets.push_back(all.at(i));
    generations_.add(
        std::make_unique<Generation>(loop_, self, plan_.settings.name, g, std::move(sockets),
                                     plan_.log->restore_pipe(plan_.settings.name, g.log)));
  }
  for (size_t i : r.dropped) dropped_.push_back(all.at(i));
  if (r.revert_at) revert_at(r.revert_at);
}

// A supervisor that died meanwhile is replaced, and a watch that was
// set is asked for anew (by the order: a supervisor that obeys looks at everything).
void Pool::go_on() {
  give_up_dropped();
  // Orders that were not acknowledged before the old binary ended are not known any more: they are given again.
  for (auto& g : generations_)
    if (g->has_supervisor() && !g->serves())
      g->drain_again(plan_.settings.drain_timeout, g->bits_of(dropped_));
  if (!is_serving()) return;
  watch_listeners();
  Generation* g = generations_.current();
  if (!g || !g->serves()) {  // (one that left by itself)
    restart_timer_ = loop_.after(0, [this] { launch_again(); });
    return;
  }
  Order o;
  o.type = OrderType::kLimits;
  o.limits = limits_;
  for (auto& each : generations_)
    if (each->serves()) each->order(o);
  if (!awaits_address() && !newest_has_what_there_is())
    restart_timer_ = loop_.after(0, [this] { launch_again(); });
  if (g->is_on_trial()) return;  // it is told when it is ready, or has what it waits for
  o.type = OrderType::kServe;
  g->order(o);
}

}  // namespace preforkd
