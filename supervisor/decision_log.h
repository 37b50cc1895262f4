// What becomes known of the supervisor's decisions: the ring in shared memory, for `preforkctl why`, and a warning in the log
// when clients have to wait at `max`.
#pragma once

#include "shm/scoreboard.h"
#include "supervisor/scaler.h"

namespace preforkd {

class DecisionLog {
 public:
  explicit DecisionLog(shm::Scoreboard& board) : board_(board) {}

  // What lasts is recorded once: a hold, and waiting for busy workers to leave.
  void record(const Verdict& verdict, const View& view, const shm::Counts& counts,
              const Limits& limits, Nanoseconds now);
  Reason last_reason() const { return reason_; }
  // Only when somebody has to wait, and not at each of a pool's many small peaks.
  void note_at_max(const View& view, Nanoseconds now);

 private:
  shm::Scoreboard& board_;
  Action action_ = Action::kNone;
  Reason reason_ = Reason::kNone;
  Nanoseconds say_at_max_at_ = 0;  // not before
};

}  // namespace preforkd
