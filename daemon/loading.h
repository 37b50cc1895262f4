// A configuration that is being loaded for the daemon, which goes on meanwhile: the daemon's end of daemon/loader.h.
// Owns the child; lives in a Reload. Within kLoadLimit, and kCheckSeconds more for each handler that is checked, there is
// a result, or that there is none is one, with the step that took so long. A child that does not end then
// (in the kernel, for a file system that hangs) is not waited for.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "daemon/launch.h"
#include "daemon/loader.h"

namespace preforkd {

inline constexpr Nanoseconds kLoadLimit = 30 * kSecond;

class Loading {
 public:
  struct Calls {
    // Once, with settings or errors; it may destroy the Loading.
    std::function<void(LoadedSettings, std::vector<std::string> errors)> on_loaded;
    std::function<void(Nanoseconds deadline)> on_deadline;  // whenever it changes
  };
  // Throws SysError: no process to be had.
  Loading(EventLoop& loop, const Paths& paths, const std::string& file, const InForce& in_force,
          Calls calls);
  ~Loading();  // ends the child
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;

  bool owns(pid_t child) const { return child_ && child_->pid == child; }
  // waitpid() had news of a child. True if it is this one, which has ended.
  bool child_ended(pid_t pid, int status);

 private:
  void set_deadline(Nanoseconds deadline);
  void read_lines();
  void take_line(const std::string& line);
  void on_late();
  void end(LoadedSettings loaded, std::vector<std::string> errors);

  EventLoop& loop_;
  const std::string file_;
  Calls calls_;
  std::shared_ptr<Child> child_;
  UniqueFd output_;
  std::string text_;      // what is no whole line yet
  size_t looked_at_ = 0;  // of it, for the end of the line
  std::string step_, result_, trouble_;
  Nanoseconds began_ = 0, deadline_ = 0;
  EventLoop::Timer timer_;
};

}  // namespace preforkd
