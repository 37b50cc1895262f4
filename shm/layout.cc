#include "shm/layout.h"

namespace preforkd::shm {

// Raised with each change of what lies where, and of what it means.
constexpr uint32_t kThisLayout = 4;

#ifndef PREFORKD_NEXT
const uint32_t kLayoutVersion = kThisLayout;
#else
const uint32_t kLayoutVersion = kThisLayout + 1;  // of what tests upgrade to (Makefile: NEXT)
#endif

}  // namespace preforkd::shm
