#include "worker/worker.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <stdexcept>
#include <string>

#include "base/log.h"
#include "base/process_title.h"
#include "worker/client_end.h"
#include "worker/signals.h"

namespace preforkd {

void become_own_process(const WorkerPlan& plan) {
  if (!plan.program())  // which resets them all when it is executed
    for (int number : {SIGCHLD, SIGIO, SIGHUP, SIGINT, SIGQUIT}) set_to_default(number);
  // The supervisor is not dumpable; a worker may be, so that a handler's crash leaves a core.
  system_call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
  if (plan.has_other_nofile) system_call(SYS_prlimit64, 0, RLIMIT_NOFILE, &plan.nofile, 0);
  if (plan.is_limited) live_within(plan.settings.process);
  if (plan.leads_group()) system_call(SYS_setpgid, 0, 0);
}

Worker::Worker(const WorkerPlan& plan, uint32_t slot)
    : plan_(plan), slot_(slot), intake_(plan, slot) {
  set_process_title(plan.title, plan.comm);
  // While it waits for a start ticket, or runs `start`, TERM ends it.
  intake_.take_over_signals(plan.has_start() ? SIGTERM : 0);
  become_own_process(plan);
}

int Worker::run() {
  if (plan_.has_start() && !intake_.wait_to_start()) return 0;
  if (const auto* serving = plan_.serving()) throw std::runtime_error(serving->become(slot_));
  const HandlerLibrary* handler = plan_.handler();
  if (handler)
    if (int code = handler->start()) {
      log_error("start returned " + std::to_string(code));
      return 1;
    }
  intake_.started();
  while (auto connection = intake_.next()) serve(std::move(*connection));
  if (handler) handler->stop();
  return 0;
}

void Worker::serve(Accepted connection) {
  intake_.begin(connection);
  if (const Program* program = plan_.program()) {
    system_call(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0);  // it would survive the exec
    plan_.closing.lend(connection.fd.get());
    std::string reason = program->become(connection, plan_.nudge_signal());
    intake_.done(Outcome::kFailed);
    throw std::runtime_error(reason);  // a worker that cannot become its program counts as crashed
  }
  preforkd_connection c = intake_.describe(connection);
  const bool served = plan_.handler()->serve(c) == 0;
  const ClientEnd end = served ? ClientEnd::kNot : client_end(c.fd);
  intake_.done(outcome_of(served, end));
  if (end != ClientEnd::kGone) plan_.closing.end(c.fd);
}

}  // namespace preforkd
