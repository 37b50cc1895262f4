// What a generation's supervisor has left behind: who it is, and its end. There may be thousands of them, with thousands
// of threads, and they may fork faster than one can look: each look has a few milliseconds, and what it has cost is
// paused for several times, so that the daemon's loop has its turns.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/program_end.h"
#include "base/standstill.h"
#include "daemon/generation.h"
#include "daemon/session.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kOrphanLook = 100 * kMillisecond;
constexpr Nanoseconds kGoOn = 10 * kMillisecond;
constexpr Nanoseconds kLookLasts = 3 * kMillisecond;
constexpr Nanoseconds kTermLasts = 20 * kMillisecond;  // once
constexpr uint64_t kPauses = 4;                        // times what a look took
constexpr Nanoseconds kTermToKill = 1 * kSecond;
constexpr int kAskedAtLeast = 64;

}  // namespace

// A pid that was reaped may be another's.
bool Generation::owns(pid_t child, pid_t session) const {
  if (child == child_.pid) return has_supervisor();
  return claimed_.contains(child) || session == child_.pid;
}

// Of a pid that was used twice the first one counts: it was there before the supervisor's death, if either was. (A worker
// has not left its session, and leads its group: it could not.)
void Generation::orphan_ended(pid_t pid, int status) {
  if (success_.empty() || pid == child_.pid || claimed_.contains(pid)) return;
  if (ended_programs_.size() >= capacity_ || !ended_by_itself(status)) return;
  ended_programs_.emplace(pid, is_success(status, success_));
}

// Of the children that nobody has for its own yet. False: it cannot be known just now, or takes another look.
bool Generation::claim(Nanoseconds until) {
  const auto unclaimed = owner_->unclaimed_children();
  if (!unclaimed) return false;
  int asked = 0;
  for (pid_t pid : *unclaimed) {
    if (of_others_.contains(pid)) continue;
    if (++asked > kAskedAtLeast && monotonic_now() >= until) return false;
    const auto is_its = is_of_user(pid, uid_);
    if (!is_its) return false;
    (*is_its ? claimed_ : of_others_).insert(pid);
  }
  of_others_.clear();
  return true;
}

// Those that live. Nothing: it cannot be known just now. Who has ended is reaped, and has left us its children before
// that: these are in the next list.
std::optional<std::vector<pid_t>> Generation::left_behind(Nanoseconds until) {
  const bool all_known = claim(until);
  auto left = own_children();
  if (!left) return std::nullopt;
  bool any_ended = false;
  std::erase_if(*left, [&](pid_t pid) {
    if (!owns(pid, getsid(pid))) return true;
    int status = 0;
    const bool has_ended = waitpid(pid, &status, WNOHANG) == pid;
    if (has_ended) orphan_ended(pid, status);
    any_ended |= has_ended;
    return has_ended;
  });
  const std::set<pid_t> alive(left->begin(), left->end());
  for (auto* pids : {&claimed_, &killed_})
    std::erase_if(*pids, [&](pid_t pid) { return !alive.contains(pid); });
  if (left->empty() && (any_ended || !all_known)) return std::nullopt;
  return left;
}

// A look each 100 ms while there are any, and not at each death: thousands may be dying.
void Generation::wait_for_orphans() {
  const Nanoseconds began = monotonic_now();
  const Left left = look_at_orphans(began + kLookLasts);
  if (left == Left::kNone) {
    state_ = State::kOver;
    owner_->on_over(number_);  // may destroy this
    return;
  }
  const Nanoseconds now = monotonic_now();
  Nanoseconds next = now + (left == Left::kInHand ? kGoOn : kOrphanLook);
  if (orphans_until_ > now) next = std::min(next, orphans_until_);
  const Nanoseconds due = std::max(next, now + kPauses * (now - began));
  orphan_timer_ = loop_.at(due, [this, now, due] {
    const bool have_time = orphans_until_ > now && orphans_until_ != kNever;
    if (have_time) orphans_until_ += stood_still(now, due, monotonic_now());
    wait_for_orphans();
  });
}

// One that forks and ends again and again is met sooner or later.
Generation::Left Generation::look_at_orphans(Nanoseconds until) {
  bool any_new = false;
  do {
    const auto left = left_behind(until);
    if (!left) continue;
    workers_ = static_cast<uint32_t>(left->size());
    if (left->empty()) return Left::kNone;
    if (monotonic_now() < orphans_until_) return Left::kSome;
    if (!orphans_termed_) {
      term_orphans(*left);
      return Left::kSome;
    }
    if (!kill_orphans(*left)) return any_new ? Left::kInHand : Left::kSome;
    any_new = true;
  } while (monotonic_now() < until);
  return Left::kInHand;
}

void Generation::term_orphans(const std::vector<pid_t>& left) {
  std::string pids;
  for (pid_t pid : left)
    if (claimed_.contains(pid) && pids.size() < 80) pids += " " + std::to_string(pid);
  const std::string whose = " of generation " + std::to_string(number_);
  if (claimed_.size() < left.size())
    log({LogLevel::kWarning, pool_, 0, "workers" + whose + " are not done in time: ended",
         Event::kDrainForced});
  if (!pids.empty())
    log({LogLevel::kWarning, pool_, 0,
         "processes that workers" + whose + " have left behind are ended: pid" + pids,
         Event::kDrainForced});
  signal_trees(left, SIGTERM, monotonic_now() + kTermLasts);
  orphans_termed_ = true;
  orphans_until_ = monotonic_now() + kTermToKill;
}

// The newest first: they are the likeliest to be there still. Whether any of them had none yet.
bool Generation::kill_orphans(const std::vector<pid_t>& left) {
  bool any_new = false;
  for (auto pid = left.rbegin(); pid != left.rend(); ++pid) {
    kill(*pid, SIGKILL);
    any_new |= killed_.insert(*pid).second;
  }
  return any_new;
}

}  // namespace preforkd
