// A pool's listen sockets: as its plan has them, watched for who serves, given up when nobody serves what waits there.
#include <sys/epoll.h>

#include "base/backlog.h"
#include "daemon/pool.h"

namespace preforkd {

// As the plan has them, for sockets that were there before it, too.
void Pool::set_socket_options() {
  for (const auto& listener : plan_.listeners) {
    listener->set_backlog(static_cast<int>(plan_.settings.backlog));
    try {
      listener->set_options(plan_.settings.tcp);
    } catch (const std::exception& e) {
      log_line(LogLevel::kWarning, e.what());
    }
    if (listener->cannot_have(plan_.settings.tcp))
      log_line(
          LogLevel::kWarning,
          listener->address() + " was bound otherwise: tcp.reuse_port takes a stop and a start");
    if (listener->is_listening()) warn_of_short_queue(*listener);
  }
}

// The kernel has its own limit, and says nothing of it.
void Pool::warn_of_short_queue(const Listener& listener) const {
  const PoolSettings& settings = plan_.settings;
  const auto queue = queued_on(listener.fd());
  const bool sheds = !settings.saturation_message.empty();
  if (!queue || queue->limit >= (sheds ? settings.saturation_queue : settings.backlog)) return;
  const std::string fewer =
      std::to_string(queue->limit) + " connections may wait at " + listener.address() +
      (listener.is_inherited() ? " (Backlog= of its unit, or net.core.somaxconn)"
                               : " (net.core.somaxconn)");
  if (sheds)
    log_line(LogLevel::kWarning, "saturation.queue is " +
                                     std::to_string(settings.saturation_queue) + ", but only " +
                                     fewer + ": more are turned away");
  else if (!listener.is_inherited())
    log_line(LogLevel::kWarning,
             "backlog is " + std::to_string(settings.backlog) + ", but only " + fewer);
}

void Pool::say_listening(const Listeners& before) const {
  for (const auto& listener : plan_.listeners)
    if (!contains(before, listener) && listener->is_listening())
      log_line(LogLevel::kInfo, "listening on " + listener->address());
}

// For who serves. One shot: the first connection on any of the sockets ends the watch. (An order that nobody has asked for
// does no harm.)
void Pool::watch_listeners() {
  forget_listeners();
  const Generation* serving = generations_.in_charge();
  if (!serving || !is_serving()) return;
  auto look = [this](uint32_t) {
    forget_listeners();
    Order readable;
    readable.type = OrderType::kReadable;
    if (Generation* g = generations_.in_charge()) g->order(readable);
  };
  watching_ = true;
  for (const auto& listener : plan_.listeners)
    if (listener->is_listening() && contains(serving->sockets(), listener))
      loop_.watch(listener->fd(), EPOLLIN, look);
}

void Pool::forget_listeners() {
  if (!watching_) return;
  watching_ = false;
  for (const auto& listener : plan_.listeners) loop_.forget(listener->fd());
}

// From here on clients are refused there. Not before the last generation that was told to leave accepts no
// more: it may still be serving what waits.
void Pool::give_up_dropped() {
  if (generations_.leavers_accept()) return;
  for (const auto& listener : dropped_) listener->give_up();
  dropped_.clear();
}

}  // namespace preforkd
