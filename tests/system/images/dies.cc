// A preforkd that crashes as soon as it runs: in its rehearsal.
#include <cstdlib>

extern "C" void __real__ZN8preforkd13ServiceStatus13feed_watchdogEv(void*);
extern "C" void __wrap__ZN8preforkd13ServiceStatus13feed_watchdogEv(void* daemon) {
  __real__ZN8preforkd13ServiceStatus13feed_watchdogEv(daemon);
}

namespace {
const struct Dying {
  Dying() { abort(); }
} kDying;
}  // namespace
