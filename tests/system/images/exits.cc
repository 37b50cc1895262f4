// A preforkd that passes its rehearsal, and ends when it has taken over nearly everything.
#include <cstdlib>

extern "C" void __wrap__ZN8preforkd13ServiceStatus13feed_watchdogEv(void*) { std::exit(3); }
