// A preforkd that fails in its rehearsal, and takes its time.
#include <unistd.h>

#include <cstdlib>

extern "C" void __real__ZN8preforkd13ServiceStatus13feed_watchdogEv(void*);
extern "C" void __wrap__ZN8preforkd13ServiceStatus13feed_watchdogEv(void* daemon) {
  __real__ZN8preforkd13ServiceStatus13feed_watchdogEv(daemon);
}

namespace {
const struct Lingering {
  Lingering() {
    sleep(2);
    _exit(1);
  }
} kLingering;
}  // namespace
