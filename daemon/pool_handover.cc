// A pool at the end of a reload's trial: the new generation takes over, or is abandoned.
#include <algorithm>
#include <utility>

#include "daemon/pool.h"
#include "shm/region.h"

namespace preforkd {

void Pool::promote(const Listeners& dropped, bool recycled) {
  auto trial = std::move(trial_);
  finishing_ = false;
  restart_timer_ = {};
  if (!recycled) revert_timer_ = {};
  leave_to_next();
  const bool waits = trial->plan().waits();
  taking_over_ = true;
  if (!waits) tell_to_serve(trial->generation());
  if (!waits || !dropped.empty()) leave(dropped);
  generations_.add(trial->release());
  Generation& g = *generations_.newest();
  GenerationOwner& owner = *this;
  g.belongs_to(owner);
  plan_ = trial->plan();
  set_socket_options();
  limits_ = trial->limits();
  capacity_ = g.capacity();
  launched_at_ = monotonic_now();
  failures_ = 0;
  if (!waits)
    newest_serves();
  else if (!generations_.in_charge())
    has_to_wait();
  // It may have died while the others' trials went on; or all addresses are had meanwhile.
  if (!g.has_supervisor())
    launch_soon();
  else if (plan_.goes_without && !awaits_address())
    restart_timer_ = loop_.after(0, [this] { serve_at_last(); });
  // What was set during the trial was for the limits of before.
  const Limits& in_file = plan_.settings.limits;
  if (!recycled && !(limits_ == in_file)) set_limits(in_file, in_file, 0, {});
}

void Pool::abandon() {
  auto trial = std::move(trial_);
  auto failed = trial->release();
  GenerationOwner& owner = *this;
  failed->belongs_to(owner);
  failed->drain(plan_.settings.drain_timeout, 0);
  generations_.add_abandoned(std::move(failed));
  if (state_ == PoolState::kStopped) finishing_ = true;  // a pool that was to be added
  owner_.on_pool_changed(plan_.settings.name);
}

void Pool::adopt(PoolPlan plan, const Listeners& dropped, bool keeps_limits) {
  for (const auto& listener : dropped) listener->give_up();
  const Limits limits = plan.settings.limits;
  plan.goes_without = plan_.goes_without;
  // More than it has is asked of a pool that nobody serves only: its next generation has it.
  capacity_ = std::max(capacity_, shm::capacity_for(limits.max));
  plan_ = std::move(plan);
  set_socket_options();
  if (keeps_limits) return;
  const bool is_new = !(limits == limits_) || !(limits == lasting_limits());
  if (is_new) set_limits(limits, limits, 0, {});
}

}  // namespace preforkd
