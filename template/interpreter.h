// The interpreter that this process is running, as far as a fork concerns it: what its own fork() does besides the call. Found
// by its symbols, in whatever it was linked into; a process without one does nothing here. For the thread that runs it, in a
// call that the program has made (of libpreforkd, or of a function of libc's).
//
//   Python   PyOS_BeforeFork() and what follows: locks, thread ids, and what os.register_at_fork() was told. Before the first
//            worker, garbage is collected, and what is left is kept out of later collections, which would write into, and so
//            copy, each object that workers share (gc.freeze(), made for this).
//   Perl     $$ is right by itself. rand() has the same row of numbers in all workers if the program has used it: it is seeded
//            anew.
//
// And its way to end, if the process ends in the midst of such a call: what the program has registered for its end is run.
#pragma once

#include <string>

namespace preforkd {

class Interpreter {
 public:
  Interpreter();

  void settle() const;  // before the first worker
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

  // exit(0), by the interpreter's own way where there is one. (Python waits for its threads then: with others it is not asked.)
  [[noreturn]] static void exit();

 private:
  struct Python {
    int (*hold)() = nullptr;
    void (*let_go)(int) = nullptr;
    void (*before_fork)() = nullptr;
    void (*after_fork_in_parent)() = nullptr;
    void (*after_fork_in_child)() = nullptr;
    int (*run)(const char*, void*) = nullptr;
    int held = 0;
  } python_;
  bool is_python_ = false;
};

}  // namespace preforkd
