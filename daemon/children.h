// The daemon's children: whose news each one's is, whom nobody has for his own, and what a control or log process that
// died has left behind. (What a supervisor has left: generation_orphans.cc.)
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <vector>

#include "base/loop.h"
#include "conf/user.h"
#include "daemon/pool_set.h"

namespace preforkd {

class Children {
 public:
  // Somebody who has started some of them.
  struct Parent {
    std::function<bool(pid_t child)> owns;
    // waitpid() had news of a child: it ended, was stopped, goes on. True if it is his.
    std::function<bool(pid_t child, int status)> child_changed;
    // Of control and the log process: they fork nothing, unless they were taken over; what one has left is ended. Its user.
    std::function<const EffectiveUser&()> leaves_nothing = nullptr;
    bool goes_last = false;  // the log process
  };
  // `on_reaped`: after each turn.
  Children(EventLoop& loop, const PoolSet& pools, std::function<void()> on_reaped)
      : loop_(loop), pools_(pools), on_reaped_(std::move(on_reaped)) {}

  void add(Parent parent) { parents_.push_back(std::move(parent)); }
  // Children that this process has already, from before it became preforkd (by an exec), are nobody's business.
  void have_strangers(std::vector<pid_t> strangers) { strangers_ = std::move(strangers); }
  const std::vector<pid_t>& strangers() const { return strangers_; }

  // On SIGCHLD: so many a turn, and the rest by itself.
  void reap();

  // Less strangers, and who goes last. Nothing: it cannot be known just now.
  std::optional<std::vector<pid_t>> ours() const;
  // Of those, whom nobody owns.
  std::optional<std::vector<pid_t>> unclaimed() const;

 private:
  struct Left {
    pid_t session;
    EffectiveUser user;
    bool was_killed = false;
  };
  void reap_one(pid_t child);
  void end_left(Left left);

  EventLoop& loop_;
  const PoolSet& pools_;
  const std::function<void()> on_reaped_;
  std::vector<Parent> parents_;
  std::vector<pid_t> strangers_;
  EventLoop::Timer reap_timer_;
};

}  // namespace preforkd
