// fork(2), but that the new process is a sibling: a child of this process's parent (CLONE_PARENT). So the supervisor reaps,
// signals and times it as any that it has forked itself, whatever becomes of the process that it is a copy of.
//
// glibc has no function for that, and a bare clone(2) leaves it with a cached thread id that is another's, without a robust
// list in the kernel, and with handlers of pthread_atfork(3) that have not run. So:
//   the thread id: the kernel writes it where glibc has it, at the address that set_tid_address(2) was told at the process's
//     start (PR_GET_TID_ADDRESS; without CONFIG_CHECKPOINT_RESTORE it is looked for in glibc's description of the thread);
//   the robust list is registered again, empty, as glibc's own fork does;
//   the handlers are recorded as they are registered: this object defines __register_atfork, which pthread_atfork() calls, and
//     is found before libc's because the supervisor has it preloaded. Those of an object that was unloaded are left out.
// Locks of malloc and stdio, which fork() takes care of, are held by nobody: there is one thread, and it is here.
//
// Killed at any moment, the process leaves no new one that nobody knows of: the kernel writes the pid of each into shared
// memory before it runs, in the same call that makes it.
//
// For a process with one thread, and called in it, in libpreforkd.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "shm/layout.h"

struct robust_list_head;

namespace preforkd {

class SiblingFork {
 public:
  SiblingFork();

  // "", or why it cannot be done right here.
  const std::string& trouble() const { return trouble_; }

  // As fork(2): 0 in the new process, -1 and errno. `announced` is the new one's pid before that runs. `first` runs in the
  // new process before the handlers that its program has registered.
  pid_t fork(shm::Word& announced, const std::function<void()>& first) const;

 private:
  int* thread_id_ = nullptr;  // glibc's
  robust_list_head* robust_list_ = nullptr;
  size_t robust_size_ = 0;
  std::string trouble_;
};

}  // namespace preforkd
