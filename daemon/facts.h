// What control is told of the daemon and of each pool, as JSON (base/messages.h): all that it shows and that
// does not lie in shared memory. Pure.
#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "daemon/pool.h"

namespace preforkd {

std::string daemon_facts(Nanoseconds started, uint64_t reloads, int64_t control_gid, bool stopping,
                         const std::vector<std::string>& pools);
std::string pool_facts(const Pool& pool);

}  // namespace preforkd
