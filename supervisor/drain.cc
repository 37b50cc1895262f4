#include "supervisor/drain.h"

#include <sys/socket.h>

#include <algorithm>

#include "base/backlog.h"
#include "base/fd.h"
#include "base/standstill.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kFinishQueue = 5 * kSecond;
// For the last step of a handshake: once round the world, or one that was lost and is asked for again after 1 s (the
// first RTO of RFC 6298). A flood of SYNs holds a drain up for no longer than that.
constexpr Nanoseconds kFinishHandshakes = 2 * kSecond;
constexpr Nanoseconds kLookAtHandshakes = 20 * kMillisecond;

}  // namespace

void Drain::begin(Nanoseconds timeout, uint64_t finish, Nanoseconds now) {
  course_ = Course::kDraining;
  until_ = now + timeout;
  finish_ = finish;
  shm::Published& published = board_.segment().published;
  if (finish) {
    queue_ends_ = now + std::min(timeout, kFinishQueue);
    handshakes_end_ = std::min(now + kFinishHandshakes, queue_ends_);
    published.accept_from.store(finish);
    published.accept_until.store(queue_ends_);
    published.ring_on.store(
        shm::kRingOnCompleted);  // whoever is done may have taken the last of it
  }
  // Every worker that becomes busy from now on rings: the daemon wants to know when none accepts.
  published.low_water.store(~0u);
  published.leaving.store(shm::kDrain);
}

void Drain::end() {
  course_ = Course::kEnding;
  until_ = kNever;
  board_.segment().published.leaving.store(shm::kDrain);
}

void Drain::give_time(Nanoseconds length) {
  if (until_ != kNever) until_ += length;
  if (finish_ == 0) return;
  queue_ends_ += length;
  if (handshakes_end_ > 0) handshakes_end_ += length;
  board_.segment().published.accept_until.store(queue_ends_);
}

bool Drain::time_is_over(Nanoseconds now, WakeTime& wake) const {
  wake.by(next_look(until_, now));
  return now >= until_;
}

// Not at each turn: the kernel looks through all connections of the machine for it.
bool Drain::somebody_joins(Nanoseconds now) {
  if (now >= handshakes_end_) return false;
  if (now < look_at_handshakes_) return true;
  const bool joins = shakes_hands(plan_.listen_sockets, finish_);
  look_at_handshakes_ = now + kLookAtHandshakes;
  if (!joins) handshakes_end_ = 0;
  return joins;
}

bool Drain::queue_is_finished(Nanoseconds now, WakeTime& wake) {
  if (finish_ == 0) return true;
  if (now < queue_ends_) {
    const bool joins = somebody_joins(now);
    wake.by(joins ? look_at_handshakes_ : queue_ends_);
    const auto waiting = queued_if_known(plan_.listen_sockets, finish_);
    if (!waiting) wake.by(now + kLookAtHandshakes);
    if (joins || waiting != 0u) return false;
  }
  finish_ = 0;
  board_.segment().published.accept_until.store(0);
  return true;
}

void Drain::give_up_sockets() {
  for (; own_sockets_ > 0; --own_sockets_) {
    const int listen_socket = plan_.listen_sockets[own_sockets_ - 1];
    shutdown(listen_socket, SHUT_RDWR);
    while (UniqueFd(accept4(listen_socket, nullptr, nullptr, SOCK_CLOEXEC)).is_open()) {
    }
  }
}

}  // namespace preforkd
