// What preforkd goes through while one or a few of its system calls fail: it starts, serves, grows, shrinks, has its
// limits set, is reloaded with a pool that comes and goes, is recycled, loses a worker, a supervisor, control and the log
// process, drains, resumes, is upgraded in place, and stops. Clients of a handler, of a program and of a Unix socket
// come all the time, and some stay.
//
// What must hold is in the complaints:
//   - no client is refused, cut, answered wrongly, or waits for more than 10 s, unless the fault has killed the daemon;
//   - what is asked for at the control socket is done within 10 s, asked again if need be;
//   - a fault that is not quiet (errors.h) is named in the log, or in an answer;
//   - a start that has failed has exit status 71 or 78, and the next one succeeds, as after a kill of the daemon;
//   - no process, file of a socket, or file in /dev/shm is left behind.
#pragma once

#include <string>
#include <vector>

#include "tests/sweep/fault.h"

namespace preforkd::sweep {

struct Verdict {
  std::vector<Fault> done;              // of the faults, those whose sites were reached
  std::vector<std::string> complaints;  // none: all is well
};

// Once in a process: what it expects is CUnit's. With a path in `record_to` it has no faults, and writes the sites there.
Verdict run_scenario(const std::vector<Fault>& faults, const std::vector<Site>& sites,
                     const std::string& record_to = "");

}  // namespace preforkd::sweep
