// Waiting in a benchmark: for a named condition with a deadline, or for a moment on the clock.
// Every wait ends at once when the user interrupts, as an exception, so that whatever was started
// is ended by its owner's destructor.
#pragma once

#include <signal.h>
#include <time.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "base/clock.h"

namespace preforkd::bench {

class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

// Set by the signal handler, and by nothing else.
inline volatile sig_atomic_t interrupt_received = 0;

inline void note_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) {
    interrupt_received = 1;
  };  // no SA_RESTART: it ends a blocking call
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
}

inline void throw_if_interrupted() {
  if (interrupt_received) throw Interrupted();
}

inline void sleep_until(Nanoseconds moment) {
  // In slices: a signal that arrives just before the call must not be slept through.
  for (Nanoseconds now; throw_if_interrupted(), (now = monotonic_now()) < moment;) {
    timespec slice = to_timespec(std::min(moment - now, 100 * kMillisecond));
    nanosleep(&slice, nullptr);
  }
}

// Returns how many seconds it took. Throws when it is not so within `seconds`.
template <class Condition>
double wait_until(const std::string& what, double seconds, Condition condition) {
  Nanoseconds begin = monotonic_now(), deadline = begin + from_seconds(seconds);
  while (!condition()) {
    if (monotonic_now() >= deadline)
      throw std::runtime_error("wait until " + what + ": not within " +
                               std::to_string(static_cast<int>(seconds)) + " s");
    sleep_until(monotonic_now() + 20 * kMillisecond);
  }
  return to_seconds(monotonic_now() - begin);
}

}  // namespace preforkd::bench
