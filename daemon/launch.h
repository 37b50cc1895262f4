// Starts the daemon's children: the one function by which a supervisor or a control process comes to be,
// in a fixed order: session, descriptors, limits, priority, groups, user, folder, exec. A fresh address space for everything that is
// not trusted; a child that fails before its exec says at which step and why.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/process_settings.h"
#include "conf/user.h"

namespace preforkd {

struct Launch {
  std::string executable;  // opened by the daemon: the child's user need not be able to reach it
  int image = -1;          // that file, if it is open already
  std::vector<std::string> argv;  // argv[0] is the title that ps shows
  std::vector<int> descriptors;   // become 3, 4, 5, ... in the child; -1 leaves a hole
  int output = -1;                // becomes descriptor 1; -1: the daemon's own
  EffectiveUser user{};           // as it is: the user stays
  ProcessSettings process{};      // of its limits, only room is made for them
};

// The process cannot be given what a key of the pool asks for ("working_directory"): "change to /srv/x: reason".
class SettingError : public SysError {
 public:
  SettingError(std::string key, const std::string& what, int error)
      : SysError(what, error), key_(std::move(key)) {}
  const std::string& key() const { return key_; }

 private:
  std::string key_;
};

struct Child {
  pid_t pid = 0;
  UniqueFd pidfd;
  bool is_running() const { return pid > 0; }
  void signal(int number) const;  // through the pidfd: never a stranger
};

// Descriptor 0 is /dev/null, 2 is the daemon's; nothing else is inherited. Its own session, no blocked
// signals, the environment without systemd's variables. Throws SettingError, or SysError "start EXECUTABLE:
// STEP: reason".
Child launch(const Launch& what);

// A child that this process already has: one from before an upgrade in place. It is not reaped yet, so it is that
// process, dead or alive.
Child existing_child(pid_t pid);

// What `launch` ran wrote to its output, after it ended; `seconds` bounds it (then it is killed and the
// status is that of a KILL).
struct Finished {
  int status = 0;  // of waitpid
  std::string output;
};
Finished launch_and_wait(Launch what, int seconds);

}  // namespace preforkd
