// A worker that is run one instruction after the other, by ptrace, and looked into meanwhile. A stop of
// ptrace's is seen by the tracer alone: its supervisor takes it for a worker that takes its time.
//
// Not every instruction is a point at which something of ours can be cut off. What counts:
//   - each in preforkd-supervisor's own code, and in the handler's;
//   - each in sem_trywait, which is where a ticket is taken;
//   - in the rest of libc, and in the vdso, only system calls: one point before, one after.
#pragma once

#include <sched.h>
#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <map>
#include <vector>

#include "base/fd.h"
#include "shm/layout.h"
#include "tests/system/check.h"

namespace preforkd::system_test {

class Stepper {
 public:
  // Attaches, wherever the process is now; it is stopped from here on. All calls from one thread. What
  // blocks for 10 s is given up: every call may throw Failure for that.
  explicit Stepper(pid_t pid);
  ~Stepper();  // lets it run on, if it is alive
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  // One instruction; a system call is one. False: the process has ended, with exit_status().
  bool step();
  // On to the next point. False: the process has ended.
  bool next_point();
  // To where it is about to wait for connections. False: the process has ended before.
  bool run_to_wait();
  void kill();  // SIGKILL, and reaped by us; then the supervisor hears of it

  bool has_ended() const { return ended_; }
  int exit_status() const { return status_; }  // of waitpid
  bool is_at_wait();                           // about to call epoll_pwait
  // The result of the system call that the last step made, if it was this one.
  bool returned_from(long number, long& result);
  bool is_in_handler() const { return in(handler_, address_); }
  uint64_t address() const { return address_; }

  // What its slot says now: its own, by the pid that is written there.
  uint64_t begun() { return slot_word(offsetof(shm::Slot, begun)); }
  uint64_t served() { return slot_word(offsetof(shm::Slot, served)); }
  uint64_t aborted() { return slot_word(offsetof(shm::Slot, aborted)); }
  uint64_t failed() { return slot_word(offsetof(shm::Slot, failed)); }
  uint32_t state() { return static_cast<uint32_t>(slot_word(offsetof(shm::Slot, state))); }

 private:
  struct Range {
    uint64_t from, to;
  };
  static bool in(const std::vector<Range>& ranges, uint64_t address);
  void learn_mappings();
  bool find_slot();
  void read(uint64_t address, void* into, size_t size);
  uint64_t slot_word(size_t offset);
  bool is_system_call(uint64_t address);
  bool is_point();
  bool wait_for_stop();
  long register_of(size_t offset);
  void run_on(const cpu_set_t& processors);

  pid_t pid_;
  const cpu_set_t own_processors_;
  UniqueFd memory_;
  bool ended_ = false;
  int status_ = 0;
  int signal_ = 0;  // on its way to the process
  uint64_t address_ = 0;
  bool was_system_call_ = false;  // the instruction before this one
  long called_ = 0;               // ... and which
  std::vector<Range> ours_, handler_;
  uint64_t segment_ = 0, slot_ = 0;
  std::map<uint64_t, bool> system_calls_;  // what is known of addresses that are not ours
};

}  // namespace preforkd::system_test
