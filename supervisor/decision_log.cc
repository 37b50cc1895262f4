#include "supervisor/decision_log.h"

#include <string>

#include "base/log.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kSayAtMaxAgain = 60 * kSecond;

}  // namespace

void DecisionLog::record(const Verdict& verdict, const View& view, const shm::Counts& counts,
                         const Limits& limits, Nanoseconds now) {
  const bool lasts = verdict.action == Action::kHold || verdict.reason == Reason::kAboveMax;
  const bool is_the_same = action_ == verdict.action && reason_ == verdict.reason;
  if (verdict.action != Action::kNone && !(lasts && is_the_same))
    board_.record(verdict.action, verdict.reason, verdict.count, counts, view.queued, verdict.peak,
                  limits, verdict.memory.patience, now);
  action_ = verdict.action;
  reason_ = verdict.reason;
}

void DecisionLog::note_at_max(const View& view, Nanoseconds now) {
  if (view.queued <= view.idle + view.starting || now < say_at_max_at_) return;
  log_warning("all " + std::to_string(board_.alive()) + " workers (workers.max) are in use, " +
                  std::to_string(view.queued) + " connections wait",
              Event::kAtMax);
  say_at_max_at_ = now + kSayAtMaxAgain;
}

}  // namespace preforkd
