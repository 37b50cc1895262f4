// Listen sockets, as the daemon has them, and what the kernel says of their queues.
#include "daemon/listener.h"

#include <algorithm>

#include "base/backlog.h"
#include "tests/sim/parts.h"

namespace preforkd {

using sim::kernel;
using sim::ListenSocket;

Listener::Listener(UniqueFd fd, bool inherited)
    : fd_(std::move(fd)), inherited_(inherited), inode_(static_cast<ino_t>(fd_.get())) {}
Listener::~Listener() = default;

Listener Listener::restore(const ListenerRecord& record) {
  return Listener(UniqueFd(record.fd), false);
}

void Listener::set_backlog(int) {}
void Listener::set_options(const TcpOptions&) {}
bool Listener::cannot_have(const TcpOptions&) const { return false; }
bool Listener::may_listen() const { return true; }

void Listener::close_the_door() { kernel->file<ListenSocket>(fd())->door_is_closed = true; }

// Who waits there is refused.
void Listener::give_up() {
  auto& socket = *kernel->file<ListenSocket>(fd());
  socket.door_is_closed = socket.has_given_up = true;
  for (sim::Connection* connection : std::exchange(socket.queue, {})) {
    connection->owner = kernel->current()->pid;
    kernel->close(connection->fd);
  }
}

bool contains(const Listeners& listeners, const std::shared_ptr<Listener>& one) {
  return std::find(listeners.begin(), listeners.end(), one) != listeners.end();
}

std::optional<Backlog> queued_on(int listen_fd) {
  return Backlog{static_cast<uint32_t>(kernel->file<ListenSocket>(listen_fd)->queue.size()), 4096};
}

uint32_t queued_on(const std::vector<int>& listen_sockets, uint64_t which) {
  kernel->step();
  uint32_t queued = 0;
  for (size_t i = 0; i < listen_sockets.size(); ++i)
    if (is_among(which, i)) queued += queued_on(listen_sockets[i])->queued;
  return queued;
}

std::optional<uint32_t> queued_if_known(const std::vector<int>& listen_sockets, uint64_t which) {
  return queued_on(listen_sockets, which);
}

bool shakes_hands(const std::vector<int>&, uint64_t) { return false; }

namespace sim {

std::shared_ptr<Listener> make_listener() {
  ListenerRecord record;
  record.fd = kernel->open(std::make_unique<ListenSocket>(), kernel->current()->pid).fd;
  return std::make_shared<Listener>(Listener::restore(record));
}

}  // namespace sim
}  // namespace preforkd
