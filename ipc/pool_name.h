// A pool's name in a message: so many bytes and a NUL.
#pragma once

#include <cstdint>

namespace preforkd {

inline constexpr uint32_t kPoolNameMax = 32;  // characters, without the NUL

}  // namespace preforkd
