// Waiting for a child that is about to end, by who has nothing else to do meanwhile, and not for ever: one that hangs
// within the kernel is left to whoever reaps later.
#pragma once

#include <sys/wait.h>

#include <ctime>

#include "base/clock.h"

namespace preforkd {

// Whether it is gone by then; `status` as of waitpid(2), and untouched if it is not. Looks each millisecond.
inline bool is_reaped_by(pid_t child, Nanoseconds deadline, int* status = nullptr) {
  const timespec moment = to_timespec(kMillisecond);
  while (waitpid(child, status, WNOHANG) == 0) {
    if (monotonic_now() >= deadline) return false;
    nanosleep(&moment, nullptr);
  }
  return true;
}

}  // namespace preforkd
