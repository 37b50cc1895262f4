#include "daemon/moves.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "daemon/socket_store.h"

namespace preforkd {
namespace {

// The queue is finished in 5 s (supervisor/drain.cc), by who obeys.
constexpr Nanoseconds kLongestMove = 6 * kSecond;
constexpr Nanoseconds kTrySoon = 100 * kMillisecond, kTryLater = kSecond;
constexpr Nanoseconds kFailedAfter = kSecond;

}  // namespace

NotHad listen_at_start(const Listeners& opened, const PoolSettings& pool) {
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

std::string not_served(const std::string& reason) {
  return reason +
         ": it is not served, and tried again each second; end who has it (a process, or a"
         " connection that has not ended), or give the pool another address and reload";
}

void AddressMoves::begin(const Listeners& before) {
  move_timer_ = {};
  by_force_ = false;
  force_timer_.set_after(kLongestMove, [this] {
    by_force_ = true;
    if (is_moving_) move();
  });
  fail_since_ = 0;
  const Listeners all = pools_.listeners();
  is_moving_ = std::any_of(all.begin(), all.end(), [&](const auto& listener) {
    return !listener->is_listening() && !contains(before, listener);
  });
  is_moving_ ? move() : wait_for_addresses();
  calls_.watch_files();
}

void AddressMoves::wait_for_addresses() {
  const auto& pools = pools_.configured();
  const bool waits = std::any_of(pools.begin(), pools.end(),
                                 [](const auto& pool) { return pool->awaits_address(); });
  if (!waits) return;
  fail_since_ = monotonic_now();
  move_timer_ = loop_.after(kTryLater, [this] { move(); });
}

// From a timer: a pool tells of itself in the midst of something.
void AddressMoves::on_pool_changed() {
  if (is_moving_) move_timer_ = loop_.after(0, [this] { move(); });
}

void AddressMoves::move() {
  if (!stop_.is_running()) return;
  const Nanoseconds now = monotonic_now();
  const bool was_moving = is_moving_;
  std::vector<Failed> failed;
  const bool waits = move_some(failed);
  calls_.watch_files();
  move_timer_ = {};
  if (failed.empty()) fail_since_ = 0;
  if (!failed.empty() && fail_since_ == 0) fail_since_ = now;
  const bool has_failed = !failed.empty() && !waits && now >= fail_since_ + kFailedAfter;
  is_moving_ = waits || (!failed.empty() && !has_failed);
  if (!failed.empty())
    move_timer_ = loop_.after(has_failed ? kTryLater : kTrySoon, [this] { move(); });
  if (has_failed) give_up(failed, was_moving);
}

// True: there is one that has to be waited for.
bool AddressMoves::move_some(std::vector<Failed>& failed) {
  bool waits = false;
  for (const auto& pool : pools_.configured()) {
    if (!pool->awaits_address()) continue;
    const std::string reason = move_addresses_of(*pool);
    if (!pool->awaits_address())
      pool->serve_at_last();
    else if (reason.empty())
      waits = true;
    else
      failed.push_back({pool.get(), reason});
  }
  return waits;
}

// Who asked is not told that all is well because the pools say that they wait for nothing.
void AddressMoves::give_up(const std::vector<Failed>& failed, bool was_moving) {
  const Answer answer = was_moving ? calls_.take_answer() : nullptr;
  std::string trouble;
  for (const auto& [pool, reason] : failed) {
    trouble += (trouble.empty() ? "" : "\n") + ("pool " + pool->settings().name + ": " + reason);
    pool->cannot_listen(reason);
  }
  if (answer) answer("reloaded, but " + trouble);
}

// The reason why one of them cannot be listened on, or "".
std::string AddressMoves::move_addresses_of(Pool& pool) {
  std::string reason;
  for (const auto& listener : pool.listeners()) {
    if (listener->is_listening() || (!by_force_ && !listener->may_listen())) continue;
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
