// Why a connection was turned away before anybody served it. The number is the place in the shared counters.
#pragma once

#include <cstddef>
#include <cstdint>

namespace preforkd {

enum class Rejection : uint32_t { kDenied, kPerSource, kUntrusted, kProxyHeader, kSaturated };
inline constexpr size_t kRejections = 5;

// As status and metrics name it.
inline constexpr const char* kRejectionNames[kRejections] = {"denied", "per_source", "untrusted",
                                                             "proxy_header", "saturated"};

}  // namespace preforkd
