// An upgrade in place, up to the exec: the rehearsal by a child of the new binary. The protocol is in daemon/takeover.h.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon/control_processes.h"
#include "daemon/launch.h"
#include "daemon/pool_set.h"
#include "daemon/takeover.h"

namespace preforkd {

class Upgrade {
 public:
  struct Calls {
    std::function<std::string()> obstacle;  // what else is under way; ""
    std::function<DaemonRecord(uint32_t asked_by)> record;
  };
  Upgrade(EventLoop& loop, const Paths& paths, PoolSet& pools, ControlProcesses& control,
          Calls calls)
      : loop_(loop), paths_(paths), pools_(pools), control_(control), calls_(std::move(calls)) {}

  // `asked_by`: the ticket of a request, which is answered if it is refused; 0: a signal.
  void begin(uint32_t asked_by);
  bool is_under_way() const { return rehearsal_ != nullptr; }

  bool owns(pid_t child) const { return rehearsal_ && rehearsal_->child.pid == child; }
  bool child_changed(pid_t pid, int status);

 private:
  struct Rehearsal {
    Child child;
    UniqueFd image;  // what is rehearsed is what is executed
    UniqueFd output;
    uint32_t asked_by = 0;
    EventLoop::Timer timer;
  };
  std::string obstacle() const;
  void start_rehearsal(uint32_t asked_by);
  void on_rehearsed(int status);
  void refuse(uint32_t asked_by, const std::string& reason);
  void exec_next_image(const Rehearsal& rehearsed);  // returns only by an exception

  EventLoop& loop_;
  const Paths& paths_;
  PoolSet& pools_;
  ControlProcesses& control_;
  const Calls calls_;
  std::unique_ptr<Rehearsal> rehearsal_;
};

}  // namespace preforkd
