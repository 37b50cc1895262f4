// The fork point: where a program that was started as the template of its pool waits for its client, and is forked instead.
// It stands there as long as it lives, and makes workers on order; each goes on from there, as if its client were about to
// come. Who calls: libpreforkd, in the first preforkd_accept(), on the main thread. (What a program does before its point, it
// does once for all workers; after that each is by itself.)
//
//   template                                        supervisor (supervisor/template.h)
//   says that it stands, or why it cannot
//   receives an order: slots                        writes Slot::pid = 0, sends the order
//   clone for each: the kernel writes the new
//   process's pid into its slot; that is a worker
//   says that the order is over                     takes over whom the slots name
//
// At the point it is looked at: one thread, no child, nothing open that workers would take from each other
// (template/descriptors.h), the same user as the supervisor, which could not end it else. What
// makes it impossible is told, and ends the template; so does what changes later (a thread that was started since).
//
// Killed at any moment: before the clone nobody is there, after it the slot says who (one system call does both). The order
// is not answered then: the supervisor reaps the template, and takes over whom the slots name.
// The supervisor killed: the template dies with it (PR_SET_PDEATHSIG, set before its exec; or it finds the channel's end);
// who has been forked and is no worker yet dies, too, or sees that it is an orphan.
// Stopped, or held up in a handler of the program's: the order stays unanswered until its deadline, and the supervisor kills
// the template. Workers that are there stay.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ipc/template_messages.h"
#include "shm/mapping.h"
#include "template/descriptors.h"
#include "template/interpreter.h"
#include "template/sibling.h"
#include "template/timers.h"

namespace preforkd {

class ForkPoint {
 public:
  // `channel`: to the supervisor. `ours`: descriptors that workers shall have as they are; both are borrowed. `in_worker` is
  // called in each, before anything of the program's.
  ForkPoint(int channel, pid_t supervisor, const shm::Mapping& mapping, std::vector<int> ours,
            std::function<void()> in_worker);

  // Called in the template, and returns in each worker that is made of it, with its slot: it leads a process group, dies by
  // SIGTERM with its supervisor, and has descriptors of its own. The template ends in here.
  uint32_t stand();

  // By another process that knows of it: a child of the template's, which will not come to its point.
  static void tell_trouble(int channel, const std::string& why);

  // In a worker, when its first connection has come (template/timers.h).
  void begin_timers() const { timers_.begin(); }

 private:
  std::string what_stands_in_the_way();
  bool obey(const TemplateOrder& order, uint32_t& slot);
  bool fork(uint32_t slot, int& error);
  void be_worker() const;
  [[noreturn]] void end(const std::string& why);
  void say(TemplateReportType type, uint32_t number = 0, int error = 0,
           const std::string& text = "") const;

  const int channel_;
  const pid_t supervisor_;
  const shm::Mapping& mapping_;
  const std::vector<int> ours_;
  const std::function<void()> in_worker_;
  SiblingFork sibling_;
  Interpreter interpreter_;
  SharedDescriptors descriptors_;
  Timers timers_;
};

}  // namespace preforkd
