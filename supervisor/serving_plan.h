// What a supervisor hands to a program that accepts by itself (worker/serving_program.h).
#pragma once

#include "conf/settings.h"
#include "ipc/supervisor_args.h"
#include "worker/serving_program.h"

namespace preforkd {

// All but slot, pid and orders. `closer`: the workers' end of the way to it; -1: there is none.
ServingWorker serving_worker(const SupervisorArgs& args, const PoolSettings& settings, int closer);

}  // namespace preforkd
