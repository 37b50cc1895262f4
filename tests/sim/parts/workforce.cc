// The supervisor's workforce as it is, but that its children are processes of the simulation, each with a stack of its own.
#include "tests/sim/kernel.h"

#include "supervisor/quick_fork.h"
#define quick_fork() sim::kernel->fork([this, slot = slots[forked]] { be_worker(slot); })
#include "supervisor/workforce.cc"
