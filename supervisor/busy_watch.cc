#include "supervisor/busy_watch.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kMeasureEvery = kSecond;

}  // namespace

bool BusyWatch::is_to_measure(Nanoseconds now, WakeTime& wake) {
  if (plan_.settings.max_rss == 0) return false;
  const bool is_woken = is_armed_ && board_.segment().shared.watch.load() == 0;
  if (measure_at_ == kNever && is_woken) measure_at_ = now + kMeasureEvery;
  if (now >= measure_at_) {
    measure_at_ = kNever;
    return true;
  }
  wake.by(measure_at_);
  return false;
}

// (The others' deadlines come later than the first one's, and are looked at then.)
void BusyWatch::arm(Nanoseconds now, WakeTime& wake) {
  shm::Word& watch = board_.segment().shared.watch;
  const Nanoseconds deadline = plan_.settings.first_deadline();
  const bool measures = plan_.settings.max_rss && measure_at_ == kNever;
  is_armed_ = deadline || measures;
  if (!is_armed_) return;
  watch.store(1);
  if (board_.counts().busy == 0) return;
  if (measures) wake.by(measure_at_ = now + kMeasureEvery);
  wake.by(deadlines_.end_overdue(now));
  // Only for a timer that is early enough for whoever comes next: the one who was busy may be done.
  is_armed_ = deadline && wake.at() > now + deadline;
  if (!is_armed_) watch.store(0);
}

}  // namespace preforkd
