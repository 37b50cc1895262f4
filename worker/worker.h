// A worker's life, from the fork to its last connection: as dumb as it can be, it serves one connection
// at a time. How it comes by them: worker/intake.h.
#pragma once

#include <cstdint>
#include <string>

#include "base/surroundings.h"
#include "worker/closing.h"
#include "worker/handler_library.h"
#include "worker/intake.h"
#include "worker/program.h"
#include "worker/serving_program.h"

namespace preforkd {

// What all workers of a pool have in common; made by the supervisor, borrowed by each worker.
struct WorkerPlan : IntakePlan {
  const HandlerLibrary* handler;  // exactly one of the three
  const Program* program;
  const ServingProgram* serving;
  Closing closing;

  // Made once: a worker allocates nothing.
  std::string title = "preforkd: worker " + settings.name;
  char comm[16] = "preforkd-worker";
  bool is_limited = settings.process.has_any_for_workers();
  // As preforkd was started with it, where the supervisor has another: who serves may use select(2).
  rlimit nofile = inherited_nofile();
  bool has_other_nofile = nofile.rlim_cur != nofile.rlim_max;

  bool has_start() const { return serving || (handler && handler->has_start()); }
  bool leads_group() const {
    return !handler;
  }  // programs have children, which are ended with them
};

class Worker {
 public:
  // Called in the forked child, with all signals blocked.
  Worker(const WorkerPlan& plan, uint32_t slot);

  // Returns the exit status; for a program, not at all once a client came; for one that accepts by itself, not at
  // all. Throws std::runtime_error if it cannot be executed.
  int run();

 private:
  void serve(Accepted connection);

  const WorkerPlan& plan_;
  const uint32_t slot_;
  Intake intake_;
};

}  // namespace preforkd
