// Addresses that get another socket. In the first place those that get another user: of another pool, or of the same one
// whose user has changed. Processes of the user
// before may have left one behind that accepts on its copy of the listen socket for ever, so the next one gets a socket
// of its own (daemon/listener.h). A reload does it in this order:
//
//   prepare   a new socket, not bound, is what the generation on trial has; roll back: it is closed, and that is all
//   commit    the door of the old one is closed: SYNs are dropped, which their senders repeat after 1 s; a path is
//             removed. The old generation finishes the queue (5 s at most), as of any address that is dropped
//   move      it accepts no more (or kLongestMove is over, whatever it does): the old one is shut down for all who
//             have a copy, the new one bound, listening, stored by systemd
//   serve     the new generation is told to serve; a pool that has dropped no address was served by the one before
//
// So do paths whose file is gone (daemon/lost_files.cc), and new addresses that overlap with dropped ones, as 0.0.0.0:80
// does with 10.0.0.1:80. Where both are the same user's, both can be there: the new one is bound at `prepare`, so that a
// reload that cannot have it fails, and listens at `move` at once. While the old one listens yet, clients of the narrower
// address come to it if that is its own: their SYN is dropped, and repeated after 1 s.
//
// A path need not wait for the old generation: both sockets can be there. An abstract name is free when the last copy
// of its socket is closed, and not before.
//
// What may come in between. Whoever has a copy of the old one makes it listen again: both lose the race for
// listen(2) to the other now and then, and ours is tried until it has won (without SO_REUSEPORT: refused). Somebody
// else takes the address in that moment, or the new user may not make a file there: for 1 s it is tried again each
// 0.1 s; then who asked is told, the pool is degraded, and it is tried each second until it works or a reload
// takes the address from the pool. A second reload: refused until the addresses have moved or failed (after a HUP it is
// done then). One that begins after that waits for nothing that has failed before: its generations go without that address,
// and others follow them when it is had. An upgrade: refused until they have moved. A stop: they do not move any more. The
// new generation's supervisor dies: its successor begins on trial, too. The old one says nothing, or is stopped: kLongestMove.
//
// At a start the same is done, once, for what cannot be had then (Daemon::open_sockets).
//
// A SIGKILL of the daemon after prepare leaves nothing. After commit: the old socket is out of the store, its generation
// finishes and lets go of it, the new generation ends without having served; the next daemon opens the
// address. After listen, before it is stored: its generation drains, and the next daemon opens the address.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/socket_store.h"

namespace preforkd {
namespace {

// The queue is finished in 5 s (supervisor/reports.cc), by who obeys.
constexpr Nanoseconds kLongestMove = 6 * kSecond;
constexpr Nanoseconds kTrySoon = 100 * kMillisecond, kTryLater = kSecond;
constexpr Nanoseconds kFailedAfter = kSecond;

}  // namespace

// At the start. Of sockets that were stored for another user: nobody is there any more who could serve what waits.
Daemon::NotHad Daemon::listen_at_start(const Listeners& opened, const PoolSettings& pool) {
  NotHad all;
  auto note = [&all](const std::exception& e, bool may_come) {
    all.reason += (all.reason.empty() ? "" : "; ") + std::string(e.what());
    all.may_come &= may_come;
  };
  for (const auto& listener : opened) {
    if (listener->is_listening()) continue;
    const bool was_stored = !listener->before().empty(), was_there = listener->outlives_us();
    try {
      for (const auto& before : listener->before()) unstore_socket(*before);
      listener->start_listening(static_cast<int>(pool.backlog));
      if (was_stored)
        log({LogLevel::kNotice, pool.name, 0,
             "the stored socket of " + listener->address() +
                 " was another user's: closed, with who waited there, and made anew"});
      else if (was_there)
        log({LogLevel::kWarning, pool.name, 0,
             "the socket of " + listener->address() +
                 " was shut down by a process that had it: it listens again"});
    } catch (const SysError& e) {
      note(e, e.error() == EADDRINUSE || e.error() == EADDRNOTAVAIL);
    } catch (const std::exception& e) {
      note(e, false);
    }
  }
  return all;
}

std::string Daemon::not_served(const std::string& reason) {
  return reason +
         ": it is not served, and tried again each second; end who has it (a process, or a"
         " connection that has not ended), or give the pool another address and reload";
}

// `before`: those there were before the reload. One that could not be had then is waited for as it was.
void Daemon::begin_moves(const Listeners& before) {
  by_force_ = false;
  force_timer_.set_after(kLongestMove, [this] {
    by_force_ = true;
    if (is_moving_) move_addresses();
  });
  moves_fail_since_ = 0;
  is_moving_ = std::any_of(pools_.begin(), pools_.end(), [&](const auto& pool) {
    const Listeners& all = pool->listeners();
    return std::any_of(all.begin(), all.end(), [&](const auto& listener) {
      return !listener->is_listening() && !contains(before, listener);
    });
  });
  is_moving_ ? move_addresses() : wait_for_addresses();
  watch_files();
}

// Of those that failed just now.
void Daemon::wait_for_addresses() {
  const bool waits = std::any_of(pools_.begin(), pools_.end(),
                                 [](const auto& pool) { return pool->awaits_address(); });
  if (!waits) return;
  moves_fail_since_ = monotonic_now();
  move_timer_ = loop_.after(kTryLater, [this] { move_addresses(); });
}

// From a timer: a pool tells of itself in the midst of something.
void Daemon::move_soon() {
  move_timer_ = loop_.after(0, [this] { move_addresses(); });
}

void Daemon::move_addresses() {
  if (phase_ != Phase::kRunning) return;
  const Nanoseconds now = monotonic_now();
  const bool was_moving = is_moving_;
  bool waits = false;
  std::string trouble;
  std::vector<std::pair<Pool*, std::string>> failed;
  for (auto& pool : pools_) {
    if (!pool->awaits_address()) continue;
    const std::string reason = move_addresses_of(*pool, by_force_);
    if (!pool->awaits_address()) {
      pool->serve_at_last();
    } else if (reason.empty()) {
      waits = true;
    } else {
      failed.emplace_back(pool.get(), reason);
      trouble += (trouble.empty() ? "" : "\n") + ("pool " + pool->settings().name + ": " + reason);
    }
  }
  watch_files();
  move_timer_ = {};
  if (failed.empty()) moves_fail_since_ = 0;
  if (!failed.empty() && moves_fail_since_ == 0) moves_fail_since_ = now;
  const bool has_failed = !failed.empty() && !waits && now >= moves_fail_since_ + kFailedAfter;
  is_moving_ = waits || (!failed.empty() && !has_failed);
  if (!failed.empty())
    move_timer_ = loop_.after(has_failed ? kTryLater : kTrySoon, [this] { move_addresses(); });
  if (!has_failed) return;
  // Who asked is not told that all is well because the pools say that they wait for nothing.
  std::function<void(const std::string&)> answer;
  if (was_moving) {
    settle_timer_ = {};
    answer = std::exchange(settling_, nullptr);
  }
  for (auto& [pool, reason] : failed) pool->cannot_listen(reason);
  if (answer) answer("reloaded, but " + trouble);
}

// The reason why one of them cannot be listened on, or "".
std::string Daemon::move_addresses_of(Pool& pool, bool by_force) {
  std::string reason;
  for (const auto& listener : pool.listeners()) {
    if (listener->is_listening() || (!by_force && !listener->may_listen())) continue;
    const Listeners before = listener->before();
    const bool is_others = std::any_of(before.begin(), before.end(), [&](const auto& one) {
      return one->uid() != listener->uid();
    });
    try {
      listener->start_listening(static_cast<int>(pool.settings().backlog));
      log({LogLevel::kInfo, pool.settings().name, 0,
           "listening on " + listener->address() +
               (is_others        ? ", on a new socket: it was another user's"
                : before.empty() ? ""
                                 : ", on a new socket")});
    } catch (const std::exception& e) {
      reason += (reason.empty() ? "" : "; ") + std::string(e.what());
    }
  }
  store_sockets(pool.settings().name, pool.listeners());
  return reason.empty() ? "" : not_served(reason);
}

}  // namespace preforkd
