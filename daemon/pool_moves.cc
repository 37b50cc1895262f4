// A pool whose address gets another user (daemon/moves.cc), or cannot be reached: who serves until it is had, and from
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
  if (state_ == PoolState::kDegraded) log_line(LogLevel::kInfo, "recovered", Event::kPoolRecovered);
  set_state(PoolState::kRunning);
}

bool Pool::others_serve() const {
  return std::any_of(generations_.begin(), generations_.end(),
                     [this](const auto& g) { return g != generations_.back() && g->serves(); });
}

void Pool::leave_to_newest() {
  for (auto& g : generations_)
    if (g != generations_.back() && g->serves())
      g->drain(plan_.settings.drain_timeout, g->bits_of(dropped_));
}

bool Pool::waits_for_others() const {
  return std::any_of(plan_.listeners.begin(), plan_.listeners.end(), [](const auto& listener) {
    return !listener->is_listening() && !listener->before().empty();
  });
}

void Pool::serve_at_last() {
  const bool went_without = std::exchange(goes_without_, false);
  if (!is_serving()) return;
  Generation* g = current();
  // What waits meanwhile is in the queue.
  if (went_without || (g && !g->has_current_sockets())) {
    loop_.cancel(restart_timer_);
    return launch_again();
  }
  leave_to_newest();
  if (!g) {  // the next one is launched soon, and has nothing to wait for
    taking_over_ = false;
    return;
  }
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
  if (goes_without_ || !plan_.has_address() || others_serve()) return;
  goes_without_ = true;
  loop_.cancel(restart_timer_);
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
