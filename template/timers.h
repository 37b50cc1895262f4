// The timers of a process that is about to be forked from: a fork inherits none, and in the template they would run off.
//
//   setitimer(2)       taken when it stands, and begun anew in a worker
//   timer_create(2)    made anew in a worker, under the numbers that the program knows them by, and begun anew
//
// Begun anew is what ran, with the time that was left of it, when the worker's first connection has come. (alarm(2) before a
// program waits for its client is about that client.)
#pragma once

#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include <string>
#include <vector>

namespace preforkd {

class Timers {
 public:
  // In the template, which has none that run from then on. "", or what stands in the way.
  std::string take();
  // In a worker: those of timer_create(2) are there. Throws SysError.
  void renew() const;
  void begin() const;

 private:
  struct Made {
    int id;  // the kernel's, and glibc's
    clockid_t clock;
    sigevent event;
    itimerspec time;
  };
  void look();
  void make(const Made& timer) const;

  itimerval intervals_[3] = {};
  std::vector<Made> made_;
};

}  // namespace preforkd
