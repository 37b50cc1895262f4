// A worker's intake as it is, and what of its memory each process has for itself.
#include "worker/intake.cc"

#include "tests/sim/parts.h"

namespace preforkd::sim {

PrivateMemory memory_of_intake() { return {&signalled, sizeof signalled}; }

}  // namespace preforkd::sim
