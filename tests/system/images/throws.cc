// A preforkd that passes its rehearsal, and fails when it has taken over nearly everything.
#include <stdexcept>

extern "C" void __wrap__ZN8preforkd13ServiceStatus13feed_watchdogEv(void*) {
  throw std::runtime_error("it fails, as it was made to");
}
