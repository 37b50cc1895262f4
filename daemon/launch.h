// Starts the daemon's children: the one function by which a supervisor or a control process comes to be,
// in a fixed order: session, descriptors, limits, priority, groups, user, folder, exec. A fresh address space for everything that is
// not trusted; a child that fails before its exec says at which step and why.
//
// The daemon does not wait for the exec: between its change of user and that, the child is in the hands of the pool's
// user, who may stop it, and who owns the folder that it changes to. Until the exec it has the daemon's memory, so it
// is not dumpable; after the exec it is not either, from its first instruction on, if its user may not read the
// executable (mode 0711; readable_executables()).
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/process_settings.h"
#include "conf/user.h"

namespace preforkd {

inline constexpr int kTrustedFile = -2;  // among Launch::descriptors

struct Launch {
  std::string executable;  // opened by the daemon: the child's user need not be able to reach it
  int image = -1;          // that file, if it is open already
  std::vector<std::string> argv;  // argv[0] is the title that ps shows
  std::vector<int> descriptors;   // become 3, 4, 5, ... in the child; -1 leaves a hole
  // Opened by the child, as the daemon's user, where daemon/trusted_path.h trusts it: its file system may hang. It becomes
  // the descriptor kTrustedFile; a hole otherwise.
  std::string trusted_file;
  // Become descriptors 1 and 2. -1: the daemon's own, for who is trusted with what that leads to (the log's reader)
  // as the daemon is.
  int output = -1, errors = -1;
  EffectiveUser user{};               // as it is: the user stays
  bool keeps_signals_within = false;  // daemon/signal_scope.h
  bool ends_with_us = false;          // the death of this process is its own
  ProcessSettings process{};          // of its limits, only room is made for them
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

// Why a child has not become what it was to be.
struct LaunchFailure {
  std::string key;   // of the pool, that is to blame; "": none is
  std::string step;  // "change to /srv/x"; without a key "start EXECUTABLE: STEP"
  int error = 0;
  std::string text() const;
};

struct Child {
  pid_t pid = 0;
  UniqueFd pidfd;
  UniqueFd failed_exec;    // closed by the exec; before that, a failure can be read from it
  std::string executable;  // for messages

  bool is_running() const { return pid > 0; }
  void signal(int number) const;  // through the pidfd: never a stranger
  // Whether it has come as far as its exec. (One from before an upgrade has.)
  bool has_executed() const;
  // Why it has not, once it has died of that; told once. Does not wait.
  std::optional<LaunchFailure> failure();
};

// Descriptor 0 is /dev/null; nothing but what is named is inherited. Its own session, no blocked signals, the
// environment without systemd's variables; mask and soft limits as preforkd was started with them
// (base/surroundings.h). Returns when the child is forked: what fails after that is told by
// Child::failure(). Throws SysError "start EXECUTABLE: STEP: reason".
Child launch(const Launch& what);

// Those of these executables that pools' users may read, while this process is root: whoever may read one may look into
// such a process before it can prevent that.
std::vector<std::string> readable_executables(const std::vector<std::string>& files);

// A child that this process already has: one from before an upgrade in place. It is not reaped yet, so it is that
// process, dead or alive.
Child existing_child(pid_t pid);

// What `launch` ran wrote to its output and its stderr, after it ended; `seconds` bounds it (then it is killed and the
// status is that of a KILL). Throws SettingError, or SysError as launch() does, if it was not executed. It waits: for
// who serves nobody yet.
struct Finished {
  int status = 0;  // of waitpid
  std::string output, errors;
};
Finished launch_and_wait(Launch what, int seconds);
// In a signal handler of a process that is about to end: the child that launch_and_wait() waits for is killed. (One that
// was forked just now ends with us: Launch::ends_with_us.)
void end_awaited();

}  // namespace preforkd
