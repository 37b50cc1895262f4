// What something has cost: the processor time of this thread, which a loaded machine does not make longer.
#pragma once

#include <time.h>

#include "base/clock.h"

namespace preforkd {

inline Nanoseconds processor_time() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<Nanoseconds>(used.tv_sec) * kSecond + static_cast<Nanoseconds>(used.tv_nsec);
}

}  // namespace preforkd
