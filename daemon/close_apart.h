// What others may have left in a Unix socket's queue (descriptors, sent along by a client whom nobody has accepted) goes
// with the socket's last descriptor, and whoever closes that stands in close() for as long as a TCP socket among them
// lingers: as many seconds as its owner likes. A process that exits does not wait for it.
#pragma once

#include "base/fd.h"

namespace preforkd {

// By the daemon, of each Unix socket that it has listened on: a child keeps the descriptor until it is closed here, and
// exits. SIGKILL of either: the other one's is the last, and it is exiting.
void close_apart(UniqueFd fd);

}  // namespace preforkd
