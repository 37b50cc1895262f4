// The one place that says which version this is.
#pragma once

namespace preforkd {
inline constexpr char kVersion[] = "0.1.0";
}
