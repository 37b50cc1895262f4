// A supervisor and its daemon: the orders that it obeys, and what it tells of its progress.
#include <algorithm>

#include "supervisor/supervisor.h"

namespace preforkd {

bool Supervisor::obey_daemon(Nanoseconds now) {
  DaemonEnds& daemon = reporter_.daemon();
  bool any = false;
  Channel::Datagram datagram;
  for (;;) {
    Channel::Got got = daemon.orders.receive(datagram);
    if (got == Channel::Got::kNothing) return any;
    auto order = got == Channel::Got::kMessage ? datagram.as<Order>() : std::nullopt;
    if (!order) {  // the daemon died, or is not what it was
      daemon.close();
      if (drain_.is_serving()) begin_drain(plan_.settings.drain_timeout, 0, now);
      return any;
    }
    obey(*order, now);
    reporter_.acknowledge(order->number, board_.alive());
    any = true;
  }
}

void Supervisor::obey(const Order& order, Nanoseconds now) {
  switch (order.type) {
    case OrderType::kLimits:
      limits_.now = order.limits;
      limits_.now.max = std::min(limits_.now.max, board_.capacity());
      break;
    case OrderType::kDrain:
      if (drain_.is_serving()) begin_drain(order.drain, order.finish, now);
      break;
    case OrderType::kStop:
      drain_.end();
      shedder_.stop();
      workforce_.the_template().stop();
      workforce_.deadlines().end_all(now);
      break;
    case OrderType::kReadable:
      queue_.asked_daemon = false;
      queue_.readable = true;
      break;
    case OrderType::kLookAgain:
      queue_.look_again_at = now;
      break;
    case OrderType::kServe:
      on_trial_ = false;  // publish() says so
      break;
    case OrderType::kPing:
      break;
  }
}

// Until it is ready, it wants as many workers as it was told to begin with.
Limits Supervisor::in_force() const {
  Limits limits = limits_.now;
  if (!reporter_.has_told_ready())
    limits.min = std::clamp(limits_.first_workers, limits.min, std::max(limits.min, limits.max));
  return limits;
}

// True: it is ready, and from here on fewer workers may do.
bool Supervisor::tell_progress(Nanoseconds now, WakeTime& wake) {
  const shm::Counts counts = board_.counts();
  const uint32_t serve = counts.idle + counts.busy;
  bool is_ready = false;
  if (!reporter_.has_told_ready() && drain_.is_serving() && serve >= in_force().min)
    is_ready = reporter_.tell_ready(now, wake);
  std::string trouble = restraint_.trouble(deaths_.last(), now);
  if (trouble.empty()) trouble = workforce_.the_template().trouble();
  reporter_.tell_trouble(trouble, serve, now, wake);
  if (restraint_.paced_until > now) wake.by(restraint_.paced_until);
  // Who is busy, or looks at the queue a last time, takes what waits before leaving.
  const bool accepts = counts.idle + counts.starting > 0 || !queue_is_finished(now, wake);
  if (!drain_.is_serving() && !reporter_.has_told_quiet() && !accepts) {
    reporter_.tell_quiet(counts.busy, now, wake);
    board_.segment().published.low_water.store(0);
  }
  if (reporter_.has_told_quiet() && !reporter_.daemon().is_open()) drain_.give_up_sockets();
  return is_ready;
}

}  // namespace preforkd
