// What control is told of a pool (ipc/info.h).
#pragma once

#include "daemon/pool.h"
#include "ipc/info.h"

namespace preforkd {

PoolInfo pool_info(const Pool& pool);

}  // namespace preforkd
