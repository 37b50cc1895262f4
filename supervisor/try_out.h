// `preforkd -t` of a pool with `preload`: whether its program can be forked from, by doing so. A template is started, and two
// workers are made of it, which accept nobody; what is open in both is compared.
#pragma once

#include <string>

#include "conf/settings.h"
#include "ipc/supervisor_args.h"

namespace preforkd {

// In `preforkd-supervisor --check --try-out`, with the descriptors of a supervisor but for those that lead to the daemon and
// the listen sockets. Within `timeouts.start`. "", or why it cannot be forked from. Throws SysError.
std::string try_out_preload(const SupervisorArgs& args, const PoolSettings& settings);

}  // namespace preforkd
