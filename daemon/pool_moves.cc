// A pool whose address gets another user (daemon/moves.h), or cannot be reached: who serves until it is had, and from
// then on.
#include <algorithm>
#include <utility>

#include "daemon/pool.h"

namespace preforkd {

void Pool::tell_to_serve(Generation& generation) {
  Order serve;
  serve.type = OrderType::kServe;
  generation.order(serve, [this](bool) {
    taking_over_ = false;
    give_up_dropped();
    owner_.on_pool_changed(plan_.settings.name);
  });
}

void Pool::newest_serves() {
  log_line(LogLevel::kNotice, "generation " + std::to_string(generation()) + " serves",
           Event::kGenerationServes);
  if (awaits_address()) return has_to_wait();
  if (state_ == PoolState::kDegraded) log_line(LogLevel::kInfo, "recovered", Event::kPoolRecovered);
  set_state(PoolState::kRunning);
}

// It stays degraded; why, cannot_listen() says.
void Pool::has_to_wait() {
  if (state_ != PoolState::kDegraded)
    set_state(PoolState::kDegraded, "waits for an address that others have yet");
  owner_.on_pool_changed(plan_.settings.name);
}

// Just the addresses that can be had; also if it is launched soon.
bool Pool::newest_has_what_there_is() {
  if (restart_timer_.is_set()) return true;
  const Generation* newest = generations_.current();
  const Listeners wanted = plan_.sockets();
  return newest && newest->sockets().size() == wanted.size() &&
         std::all_of(wanted.begin(), wanted.end(), [newest](const auto& listener) {
           return contains(newest->sockets(), listener);
         });
}

// Those that wait on trial, and have served nobody.
void Pool::leave_to_next() {
  for (auto& g : generations_)
    if (g->serves() && g->is_on_trial()) g->drain(plan_.settings.drain_timeout, 0);
}

void Pool::leave_to_newest() {
  for (auto& g : generations_)
    if (g.get() != generations_.newest() && g->serves())
      g->drain(plan_.settings.drain_timeout, g->bits_of(dropped_));
}

bool Pool::waits_for_others() const {
  return std::any_of(plan_.listeners.begin(), plan_.listeners.end(), [](const auto& listener) {
    return !listener->is_listening() && !listener->before().empty();
  });
}

void Pool::serve_at_last() {
  const bool went_without = std::exchange(plan_.goes_without, false);
  if (!is_serving()) return;
  Generation* g = generations_.current();
  // What waits meanwhile is in the queue.
  if (went_without || (g && !g->has_current_sockets())) {
    restart_timer_ = {};
    taking_over_ = false;
    return launch_again();
  }
  if (!g) {  // the next one is launched soon, and has nothing to wait for
    taking_over_ = false;
    return;
  }
  if (g->state() != Generation::State::kServing && generations_.in_charge())
    return;  // follow_who_serves()
  leave_to_newest();
  tell_to_serve(*g);
  watch_listeners();  // it may have asked before there was anything to see
  if (g->state() == Generation::State::kServing) newest_serves();
}

void Pool::cannot_listen(const std::string& reason) {
  taking_over_ = false;
  if (!is_serving()) return;
  if (state_ != PoolState::kDegraded || reason_ != reason) {
    log_line(LogLevel::kError, "degraded: " + reason, Event::kPoolDegraded);
    set_state(PoolState::kDegraded, reason);
  }
  if (!plan_.has_address() || (plan_.goes_without && newest_has_what_there_is())) return;
  plan_.goes_without = true;
  restart_timer_ = {};
  launch_again();
}

void Pool::is_cut_off(const std::string& reason) {
  if (!is_serving()) return;
  if (state_ != PoolState::kDegraded || reason_ != reason) {
    log_line(LogLevel::kError, "degraded: " + reason, Event::kPoolDegraded);
    set_state(PoolState::kDegraded, reason);
  }
  is_cut_off_ = true;  // over an upgrade, too, which hands on no more than the reason
}

void Pool::is_cut_off_no_more() {
  if (!is_cut_off_) return;
  log_line(LogLevel::kInfo, "recovered", Event::kPoolRecovered);
  set_state(PoolState::kRunning);
}

}  // namespace preforkd
