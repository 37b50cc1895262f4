// A pool in a reload: another generation is tried out (daemon/trial.h). daemon/reload.h says when.
#include "daemon/pool.h"

namespace preforkd {

// It begins with as many workers as there are now, so that nobody waits for them when it takes over.
void Pool::try_out(PoolPlan plan, const Limits& limits, bool recycled,
                   Trial::OnVerdict on_verdict) {
  const Generation* g = generations_.in_charge();
  Incarnation incarnation{next_generation_++, limits, g ? g->workers() : 0,
                          log_level_,         true,   recycled ? capacity_ : 0};
  GenerationOwner& heir = *this;
  trial_ = std::make_unique<Trial>(loop_, heir, paths_, std::move(plan), incarnation,
                                   std::move(on_verdict));
  owner_.on_pool_changed(plan_.settings.name);
}

void Pool::count_workers(std::function<void()> then) {
  Generation* g = generations_.in_charge();
  if (!g || !g->may_accept()) return then();
  Order o;
  o.type = OrderType::kPing;
  g->order(o, [then = std::move(then)](bool) { then(); });
}

}  // namespace preforkd
