// Programs that a test runs: started by fork and exec, in a session of their own, and ended with the
// test program should it die (the parent-death signal).
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"

namespace preforkd::system_test {

// $BUILD_DIR/NAME: what is under test.
std::string built(const std::string& name);

struct Spawn {
  std::vector<std::string> argv;        // argv[0] is a path, or is looked for in $PATH
  int in = -1, out = -1, err = -1;      // borrowed; -1: /dev/null
  std::function<void()> in_child = {};  // last thing before exec: limits, environment, descriptors
};
pid_t spawn(const Spawn& what);

struct Outcome {
  int code = -1;  // exit status; 128 + N when a signal ended it
  std::string out, err;
};
// Runs a program to its end. One that takes longer is killed, and a Failure thrown.
Outcome run(const std::vector<std::string>& argv, double seconds = 20);

// Until the child has ended, which it must within the time; reaps it. Nothing else may reap it.
int wait_for_child(pid_t pid, double seconds);  // the status of waitpid
int exit_code(int status);                      // as in Outcome

// Our children now: what we started, and (we are a child subreaper) orphans of that.
std::vector<pid_t> own_children();
std::vector<pid_t> children_of(pid_t parent);
// A copy of a descriptor that another process has, as whoever has taken that process over would use it. Takes root.
UniqueFd taken_from(pid_t pid, int fd);
bool is_running(pid_t pid);  // exists and is no zombie
// SIGCONT, if it is stopped. To one that is not it may do harm: it takes away the SIGSTOP that LeakSanitizer's attaching
// to its own process waits for, at the end of it.
void let_go_on(pid_t pid);
std::string title_of(pid_t pid);                 // as `ps` shows it
std::string doing(pid_t pid);                    // its title, state, and what its threads wait for
std::string file_text(const std::string& path);  // "" where it cannot be read

}  // namespace preforkd::system_test
