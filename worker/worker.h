// A worker's life, from the fork to its last connection: as dumb as it can be, it serves one connection
// at a time. How it comes by them: worker/intake.h.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "base/surroundings.h"
#include "worker/closing.h"
#include "worker/handler_library.h"
#include "worker/intake.h"
#include "worker/program.h"
#include "worker/serving_program.h"

namespace preforkd {

// What serves: exactly one of these, borrowed.
using Server = std::variant<HandlerLibrary*, Program*, ServingProgram*>;

// What all workers of a pool have in common; made by the supervisor, borrowed by each worker.
struct WorkerPlan : IntakePlan {
  Server server;
  Closing closing;

  // Made once: a worker allocates nothing.
  std::string title = "preforkd: worker " + settings.name;
  char comm[16] = "preforkd-worker";
  bool is_limited = settings.process.has_any_for_workers();
  // As preforkd was started with it, where the supervisor has another: who serves may use select(2).
  rlimit nofile = inherited_nofile();
  bool has_other_nofile = nofile.rlim_cur != nofile.rlim_max;

  // Null: it is another one.
  const HandlerLibrary* handler() const { return as<HandlerLibrary>(); }
  const Program* program() const { return as<Program>(); }
  const ServingProgram* serving() const { return as<ServingProgram>(); }
  bool preloads() const { return settings.preload; }
  bool has_start() const { return serving() || (handler() && handler()->has_start()); }
  // Programs have children, which are ended with them.
  bool leads_group() const { return !handler(); }

 private:
  template <class T>
  const T* as() const {
    auto* const* one = std::get_if<T*>(&server);
    return one ? *one : nullptr;
  }
};

// In a forked child that is to be a worker, or a template: what of the supervisor's it has not.
void become_own_process(const WorkerPlan& plan);

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
