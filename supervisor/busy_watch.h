// While nobody is busy nothing is timed, and the supervisor sleeps: no connection has a deadline, and no worker's memory grows.
// So the next one to become busy is to ring, if there is a deadline or a limit on memory: the word `watch` in shared memory.
#pragma once

#include "shm/scoreboard.h"
#include "supervisor/wake_time.h"
#include "supervisor/worker_deadlines.h"
#include "worker/worker.h"

namespace preforkd {

class BusyWatch {
 public:
  BusyWatch(const WorkerPlan& plan, shm::Scoreboard& board, WorkerDeadlines& deadlines)
      : plan_(plan), board_(board), deadlines_(deadlines) {}

  // Memory grows while somebody serves: it is measured once a second then, and not at all while nobody does.
  bool is_to_measure(Nanoseconds now, WakeTime& wake);
  // Last before sleeping.
  void arm(Nanoseconds now, WakeTime& wake);

 private:
  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  WorkerDeadlines& deadlines_;
  Nanoseconds measure_at_ = kNever;  // the workers' memory, if there is a limit
  bool is_armed_ = false;
};

}  // namespace preforkd
