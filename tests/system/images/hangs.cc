// A preforkd that passes its rehearsal, and hangs when it has taken over nearly everything.
#include <unistd.h>

extern "C" void __wrap__ZN8preforkd13ServiceStatus13feed_watchdogEv(void*) {
  for (;;) pause();
}
