#include "base/version.h"

namespace preforkd {

#ifndef PREFORKD_NEXT
const char* const kVersion = "0.1.0";
#else
const char* const kVersion = "0.1.0-next";  // what tests upgrade to (Makefile: NEXT)
#endif

}  // namespace preforkd
