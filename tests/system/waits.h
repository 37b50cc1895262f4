// What the suite `waits` shares (waits_test.cc, waits_end_test.cc): a daemon that waits for something that stands still,
// a look at what must go on meanwhile, and tests that wait side by side.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/system/check.h"
#include "tests/system/client.h"
#include "tests/system/harness.h"

namespace preforkd::system_test {

// A process that stands still and of which its parent is told nothing (of a SIGSTOP it would be). Takes root.
class Held {
 public:
  explicit Held(pid_t pid);  // one that runs
  // Parent and child, as the fork returns to each of them. (A parent that gets a signal before is held for that.)
  static std::pair<Held, Held> in_fork(pid_t parent, const std::function<void()>& cause);
  // The child alone: between fork and exec.
  static Held next_child(pid_t parent, const std::function<void()>& cause);
  Held(Held&& other) noexcept;
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held();
  bool is_gone();  // killed; its parent hears of it by this only
  // Goes on, from one system call to the next, until that is so; held again.
  void go_on_until(const std::string& what, const std::function<bool()>& is_so);

 private:
  Held() = default;
  pid_t pid_ = 0;
};

// A server with the pool `other` beside those that have something to wait for.
class Watched {
 public:
  explicit Watched(std::vector<PoolText> pools, ServerOptions options = {});

  // Until the event has come, within the time: `other` serves, and its limits are set within a second each.
  void until(const std::string& event, double seconds, const std::function<bool()>& has_come,
             std::source_location where = std::source_location::current());
  void until_log_has(const std::string& text, double seconds,
                     std::source_location where = std::source_location::current());
  // The same, where control itself stands still: a HUP is obeyed within a second.
  void uses_signals(bool yes) { uses_signals_ = yes; }
  // Where the daemon itself is not there: `other` serves.
  void is_on_its_own(bool yes) { on_its_own_ = yes; }

  Server server;

 private:
  void look();
  void order();
  void expect_never_held_up(std::source_location where);

  std::string other_;  // its address
  std::vector<double> took_;
  bool uses_signals_ = false, on_its_own_ = false;
};

// Runs that one of `tests` which CUnit is at, in a process of its own; some of those that come next have begun.
void run_side_by_side(const std::vector<Test>& tests);

std::vector<Test> waits_for_the_end();  // waits_end_test.cc

// A pool whose supervisor says yes to everything and does nothing, from when go_mad() was called.
PoolText maddening();
pid_t go_mad(Server& server);
// A pool whose worker serves a client for ever, and ignores TERM, once there is one.
PoolText stubborn();
struct ServedForEver {
  explicit ServedForEver(Server& server);

  Client client;
  pid_t worker;
};

}  // namespace preforkd::system_test
