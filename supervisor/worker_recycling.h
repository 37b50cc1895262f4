// Who of the workers is to be replaced: because it has served its connections, or asked for it, or is too old or too big. They
// count as recycling from then on, and leave when the pool does without them.
#pragma once

#include "shm/scoreboard.h"
#include "supervisor/worker_table.h"
#include "worker/worker.h"

namespace preforkd {

// What the pool looks like, with those who were told to leave counted as retiring and those who wait to be replaced as
// recycling.
struct Headcount {
  shm::Counts counts;
  uint32_t recycling = 0;
  // Of those retiring, who will be gone soon: all but those with a long connection.
  uint32_t going = 0;
};

class WorkerRecycling {
 public:
  WorkerRecycling(const WorkerPlan& plan, shm::Scoreboard& board, WorkerTable& table)
      : plan_(plan), board_(board), table_(table) {}

  // Marks who is worn out by age, or, if memory is `measured`, by size. Never more than a tenth of the workers at a time.
  // Returns when to look again.
  Nanoseconds mark_worn(bool measured, Nanoseconds now);
  bool is_under_way() const;        // somebody may wait for a replacement
  uint32_t dismiss(uint32_t most);  // the idle ones first
  Headcount headcount(Nanoseconds now);

 private:
  bool may_have_grown(uint32_t slot);
  bool has_long_connection(uint32_t slot, Nanoseconds now) const;

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  WorkerTable& table_;
  bool someone_asked_ = false;  // a worker's slot says that it would like to be replaced
};

}  // namespace preforkd
