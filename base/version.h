// The one place that says which version this is: base/version.cc.
#pragma once

namespace preforkd {
extern const char* const kVersion;
}
