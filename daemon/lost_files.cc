#include "daemon/lost_files.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "daemon/socket_store.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kLookAgain = kSecond;
constexpr Backoff kRestoreAgain = {kSecond, 30 * kSecond};
// Of a pool, some of which drain: whoever removes its file again and again has no more than these.
constexpr size_t kMostGenerations = 16;

}  // namespace

LostFiles::LostFiles(EventLoop& loop, PoolSet& pools, ControlProcesses& control,
                     AddressMoves& moves, const Stop& stop, Calls calls)
    : loop_(loop),
      pools_(pools),
      control_(control),
      moves_(moves),
      stop_(stop),
      calls_(std::move(calls)) {}

void LostFiles::watch_pools() {
  for (const auto& pool : pools_.configured()) files_.watch(pool->listeners());
}

void LostFiles::watch_control() {
  files_.watch(control_.socket(), [this] { control_.look_at_socket(); });
}

void LostFiles::on_changed(const std::shared_ptr<Listener>& listener) {
  Pool* pool = pools_.with(listener);
  if (!stop_.is_running() || !pool || contains(lost_, listener)) return;
  const auto known = listener->knows_its_file();
  if (known.value_or(false)) return;  // another mode, say
  lost_.push_back(listener);
  if (!known) return restore_after(kLookAgain);
  pool->is_cut_off("the file of " + listener->address() +
                   " was removed, or another put in its place: nobody can connect there");
  restore_after(0);
}

void LostFiles::restore_after(Nanoseconds pause) {
  timer_ = loop_.after(pause, [this] { restore(); });
}

void LostFiles::restore() {
  if (!stop_.is_running()) return;
  if (calls_.is_busy() || moves_.is_moving()) return restore_after(kLookAgain);
  const Listeners unknown = forget_found();
  bool waits = !unknown.empty();
  for (const auto& listener : lost_)
    if (!contains(unknown, listener) && restore_or_wait(listener, waits)) return;
  if (waits) restore_after(kLookAgain);
}

// Those that have come back, or that no pool has any more. Returns those of which it cannot be known just now.
Listeners LostFiles::forget_found() {
  Listeners unknown;
  std::erase_if(lost_, [&](const auto& listener) {
    Pool* pool = pools_.with(listener);
    if (!pool) return true;
    const auto known = listener->knows_its_file();
    if (!known) unknown.push_back(listener);
    if (!known.value_or(false)) return false;
    pool->is_cut_off_no_more();
    return true;
  });
  return unknown;
}

// True: its pool is being recycled, and the others have to wait for that. `waits`: it is to be looked at again.
bool LostFiles::restore_or_wait(const std::shared_ptr<Listener>& listener, bool& waits) {
  Pool& pool = *pools_.with(listener);
  if (!pool.is_serving()) return false;
  waits = true;
  if (monotonic_now() < restored_[pool.settings().name].not_before) return false;
  const std::string obstacle = listener->in_the_way();
  if (!obstacle.empty())
    pool.is_cut_off(obstacle + ": its file was removed, and comes back when that is gone");
  if (!obstacle.empty() || pool.all_generations().size() >= kMostGenerations) return false;
  recycle(pool.settings().name);
  return true;
}

// Who removes it again and again, or makes the trials fail, waits longer and longer for the next one; others do not.
void LostFiles::recycle(const std::string& pool) {
  Restored& last = restored_[pool];
  const bool again = last.not_before && monotonic_now() < last.not_before + kRestoreAgain.longest;
  last.times = again ? last.times + 1 : 0;
  calls_.recycle(pool, [this, pool](const std::string& trouble) {
    Restored& this_one = restored_[pool];
    if (!trouble.empty()) this_one.times = std::max(this_one.times, 1u);
    // From now: a trial may have lasted as long as it may.
    this_one.not_before = monotonic_now() + kRestoreAgain.after(this_one.times);
    if (!lost_.empty()) restore_after(0);
  });
}

void LostFiles::restore_at_once(Pool& pool) {
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
  moves_.begin(before);
  std::erase_if(lost_, [&](const auto& one) { return contains(lost, one); });
}

}  // namespace preforkd
