#include "shm/layout.h"

namespace preforkd::shm {

// Raised by 1000 with each change of what lies where, and of what it means; a counter more is another layout by itself.
constexpr uint32_t kThisLayout = 4000 + sizeof(Counters) / sizeof(uint64_t);

#ifndef PREFORKD_NEXT
const uint32_t kLayoutVersion = kThisLayout;
#else
const uint32_t kLayoutVersion = kThisLayout + 1;  // of what tests upgrade to (Makefile: NEXT)
#endif

}  // namespace preforkd::shm
