// How long each worker may take: to start, to serve a connection, to leave, to stay stopped; and how it is ended that takes
// longer: TERM, and KILL a second later.
#pragma once

#include "shm/scoreboard.h"
#include "supervisor/worker_table.h"
#include "worker/worker.h"

namespace preforkd {

class WorkerDeadlines {
 public:
  WorkerDeadlines(const WorkerPlan& plan, shm::Scoreboard& board, WorkerTable& table)
      : plan_(plan), board_(board), table_(table) {}

  // Ends what is overdue (timeouts.start, timeouts.connection, orders given before) and returns when the
  // next thing will be. Needs nothing when nobody is starting, busy or being ended.
  Nanoseconds end_overdue(Nanoseconds now);
  void end_starters(
      Nanoseconds now);           // those who have not served anybody, when nobody comes any more
  void end_all(Nanoseconds now);  // whatever they do

 private:
  bool order_end(uint32_t slot, uint64_t number, Nanoseconds now);
  Nanoseconds check(uint32_t slot, Nanoseconds now);
  Nanoseconds check_kill(uint32_t slot, Nanoseconds now);
  Nanoseconds check_stopped(uint32_t slot, Nanoseconds now);
  Nanoseconds check_start(uint32_t slot, Nanoseconds now);
  Nanoseconds check_retiring(uint32_t slot, Nanoseconds now);
  Nanoseconds check_connection(uint32_t slot, Nanoseconds now);
  void tell_slow(uint32_t slot, uint64_t number, Nanoseconds took);

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  WorkerTable& table_;
};

}  // namespace preforkd
