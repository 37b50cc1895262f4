// The supervisor as it is, and what of its memory each process has for itself.
#include "supervisor/supervisor.cc"

#include "tests/sim/parts.h"

namespace preforkd::sim {

PrivateMemory memory_of_supervisor() { return {&signalled, sizeof signalled}; }

}  // namespace preforkd::sim
