// Who a pool's processes run as, in the documents that the daemon's processes hand each other.
#pragma once

#include <nlohmann/json.hpp>

#include "conf/user.h"

namespace preforkd {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EffectiveUser, uid, gid, name, change, groups)

}  // namespace preforkd
