// Who may change things: root, the daemon's user, and the members of control.group, as the kernel
// says who connected to the Unix socket.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "ipc/info.h"

namespace preforkd {

struct Peer {
  bool known = false;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
};

// Of a connected Unix socket, as it was when it connected. Unknown on any other socket.
Peer peer_of(int socket);

bool may_change(const Peer& peer, const DaemonInfo& daemon);

}  // namespace preforkd
