// One pool's settings as a JSON document: what the daemon hands to a supervisor on an inherited
// descriptor. Both are of one build, so the document has exactly the keys of conf/keys.h, no more
// and no less; times are nanoseconds.
#pragma once

#include <string>
#include <string_view>

#include "conf/settings.h"

namespace preforkd {

std::string pool_to_json(const PoolSettings& pool);

// Throws std::runtime_error on anything that pool_to_json() does not write.
PoolSettings pool_from_json(std::string_view text);

}  // namespace preforkd
