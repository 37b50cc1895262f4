// All pools of the daemon: those of the configuration, in its order; those that a reload tries out, and that may come; and
// those that leave (taken out of the file, or never taken in), until their last process is gone.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/pool.h"

namespace preforkd {

class PoolSet {
 public:
  using Pools = std::vector<std::unique_ptr<Pool>>;

  PoolSet(EventLoop& loop, PoolOwner& owner, const Paths& paths)
      : loop_(loop), owner_(owner), paths_(paths) {}

  const Pools& configured() const { return configured_; }
  const Pools& leaving() const { return leaving_; }
  // Both: whoever has, or had, clients.
  std::vector<Pool*> all() const;
  bool any(const std::function<bool(Pool&)>& is_it) const;  // those that may come, too

  Pool* find(const std::string& name) const;  // of those configured; null: there is none
  Pool* find_leaving(const std::string& name) const;
  Pool* with(const std::shared_ptr<Listener>& listener) const;  // one configured
  // As they are shown: one that leaves is, as long as it drains; one that never got in is not.
  std::vector<std::string> shown_names() const;
  Listeners listeners() const;  // of those configured
  Nanoseconds longest_drain() const;
  bool is_over() const;  // nobody has a process any more, and nobody leaves

  Pool& add(PoolPlan plan, LogLevel log_level);  // to those configured
  Pool& add(PoolPlan plan, LogLevel log_level, const PoolRecord& record, const Listeners& all);
  Pool& add_coming(PoolPlan plan, LogLevel log_level);
  // These are the configured ones from now on, in this order, wherever they were. Returns who is not among them: they leave.
  std::vector<Pool*> arrange(const std::vector<Pool*>& next);
  // Those that were to come do not: who has processes leaves.
  void turn_away();
  void forget(const std::function<bool(const Pool&)>& may_be_forgotten);  // of those that leave

 private:
  EventLoop& loop_;
  PoolOwner& owner_;
  const Paths& paths_;
  Pools configured_, coming_, leaving_;
};

}  // namespace preforkd
