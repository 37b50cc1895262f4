// Follows the daemon, its supervisors, control and the log process by ptrace, from their exec on, and does at their
// system calls what a list of faults says; or, without one, writes down which call sites there are.
//
// Workers, and what they run, are not followed: a supervisor's children are not attached to. What is followed stops at
// each system call, until all of the faults are done; from then on at none.
//
// A process of its own, for waitpid: it is the tracer of processes that are its siblings. It ends when all that
// it follows has ended, or with who started it; what it follows ends with it then (PTRACE_O_EXITKILL).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/fd.h"
#include "tests/sweep/fault.h"

namespace preforkd::sweep {

class Tracer {
 public:
  // Forks the tracer. Without faults it records, and writes sites to `sites` when all has ended.
  Tracer(std::vector<Fault> faults, std::vector<Site> sites, std::string record_to);
  ~Tracer();  // ends it, and all that it follows
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // In the process that is to be followed, before its exec: back when it is.
  void attach_to_me() const;

  const Done& done() const { return *done_; }
  pid_t pid() const { return pid_; }
  void wait();  // until all that it follows has ended: 20 s at most

 private:
  [[noreturn]] void run(std::vector<Fault> faults, std::vector<Site> sites,
                        const std::string& record_to);

  Done* done_;
  UniqueFd ask_write_, ask_read_, go_write_, go_read_;
  pid_t pid_;
};

}  // namespace preforkd::sweep
