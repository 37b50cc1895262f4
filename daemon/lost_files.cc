// The file of a pool's Unix socket that somebody has removed, or put another in its place of: nobody can connect any more,
// and a socket that is bound cannot be bound again. (Control's: daemon/control_link.h.) So the pool gets a new one at that path, and a new generation with it:
// it is recycled, and that socket moves as one that gets another user (daemon/moves.cc); who waits in the old one's
// queue is served. What lies there now, if it is no dead socket, is a stranger's, and never touched: the pool is
// degraded, says who is there, and looks again each second.
//
// It is noticed at once (daemon/file_watch.h), at the latest by a reload, a recycle or resume of the pool, or an upgrade.
//
// What may come in between. A reload, or a move, is under way: it is done afterwards, if that has not done it. Somebody asks
// for a reload, a recycle, a drain, a resume or an upgrade: that goes first, for a trial lasts as long as its pool likes.
// The new generation fails its trial, or the file is removed again and again: it is tried again after 1 to 30 s, and the old
// generation serves those who are connected. The
// pool is drained: its next socket is made when it is resumed. The file comes back by itself (it was moved away, and
// back): the pool stays as it is. A SIGKILL of the daemon: the next one listens there anew.
#include <algorithm>

#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/socket_store.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kLookAgain = kSecond;
constexpr Backoff kRestoreAgain = {kSecond, 30 * kSecond};
// Of a pool, some of which drain: whoever removes its file again and again has no more than these.
constexpr size_t kMostGenerations = 16;

}  // namespace

void Daemon::watch_files() {
  for (const auto& pool : pools_) files_.watch(pool->listeners());
}

void Daemon::watch_control() {
  files_.watch(control_path_, [this] {
    if (!links_.empty()) links_.front()->look_at_socket();
  });
}

Pool* Daemon::pool_with(const std::shared_ptr<Listener>& listener) {
  const auto found = std::find_if(pools_.begin(), pools_.end(), [&](const auto& pool) {
    return contains(pool->listeners(), listener);
  });
  return found == pools_.end() ? nullptr : found->get();
}

void Daemon::on_file_changed(const std::shared_ptr<Listener>& listener) {
  Pool* pool = pool_with(listener);
  if (phase_ != Phase::kRunning || !pool || contains(without_file_, listener)) return;
  const auto known = listener->knows_its_file();
  if (known.value_or(false)) return;  // another mode, say
  without_file_.push_back(listener);
  if (!known) return restore_files_after(kLookAgain);
  pool->is_cut_off("the file of " + listener->address() +
                   " was removed, or another put in its place: nobody can connect there");
  restore_files_after(0);
}

void Daemon::restore_files_after(Nanoseconds pause) {
  files_timer_ = loop_.after(pause, [this] { restore_files(); });
}

void Daemon::restore_files() {
  if (phase_ != Phase::kRunning) return;
  if (reload_ || is_moving_ || rehearsal_) return restore_files_after(kLookAgain);
  Listeners unknown;  // just now
  std::erase_if(without_file_, [&](const auto& listener) {
    Pool* pool = pool_with(listener);
    if (!pool) return true;
    const auto known = listener->knows_its_file();
    if (!known) unknown.push_back(listener);
    if (!known.value_or(false)) return false;
    pool->is_cut_off_no_more();
    return true;
  });
  bool must_look_again = !unknown.empty();
  for (const auto& listener : without_file_) {
    Pool& pool = *pool_with(listener);
    if (!pool.is_serving() || contains(unknown, listener)) continue;
    if (monotonic_now() < restored_[pool.settings().name].not_before) {
      must_look_again = true;
      continue;
    }
    const std::string obstacle = listener->in_the_way();
    if (obstacle.empty() && pool.all_generations().size() >= kMostGenerations) {
      must_look_again = true;
      continue;
    }
    if (obstacle.empty()) return restore_file(pool.settings().name);
    pool.is_cut_off(obstacle + ": its file was removed, and comes back when that is gone");
    must_look_again = true;
  }
  if (must_look_again) restore_files_after(kLookAgain);
}

void Daemon::restore_file(const std::string& pool) {
  // Who removes it again and again, or makes the trials fail, waits longer and longer for the next one; others do not.
  Restored& last = restored_[pool];
  const bool again = last.not_before && monotonic_now() < last.not_before + kRestoreAgain.longest;
  last.times = again ? last.times + 1 : 0;
  reload(
      pool,
      [this, pool](const std::string& trouble) {
        Restored& this_one = restored_[pool];
        if (!trouble.empty()) this_one.times = std::max(this_one.times, 1u);
        // From now: a trial may have lasted as long as it may.
        this_one.not_before = monotonic_now() + kRestoreAgain.after(this_one.times);
        if (!without_file_.empty()) restore_files_after(0);
      },
      true);
}

void Daemon::restoring_gives_way() {
  if (reload_ && reload_->restores)
    roll_back("it gives way to what was asked for, and is tried again");
}

// Before it is resumed: nobody serves it, so there is nobody who would have to be tried out.
void Daemon::restore_files_of(Pool& pool) {
  PoolPlan plan = pool.plan();
  Listeners lost;
  for (auto& listener : plan.listeners) {
    if (listener->has_its_file()) continue;
    lost.push_back(listener);
    const std::string wanted = listener->wanted();
    listener = std::make_shared<Listener>(
        Listener::prepare_instead_of(listener, plan.user, plan.settings.tcp));
    listener->opened_for(wanted);
    for (const auto& before : listener->before()) before->is_followed_by(listener);
  }
  if (lost.empty()) return;
  const Listeners before = pool.listeners();
  for (const auto& listener : lost) unstore_socket(*listener);
  pool.adopt(plan, lost, true);
  begin_moves(before);
  std::erase_if(without_file_, [&](const auto& one) { return contains(lost, one); });
}

}  // namespace preforkd
