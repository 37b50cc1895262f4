#include "control/rights.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace preforkd {

Peer peer_of(int socket) {
  Peer peer;
  ucred who{};
  socklen_t size = sizeof who;
  // A TCP socket answers too, with a uid and gid of -1 and a pid of 0.
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 || who.uid == uid_t(-1))
    return peer;
  peer.known = true;
  peer.uid = who.uid;
  peer.gid = who.gid;

  peer.groups.resize(64);
  for (;;) {  // where there are more, the kernel says how many
    size = static_cast<socklen_t>(peer.groups.size() * sizeof(gid_t));
    if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &size) == 0) break;
    if (errno != ERANGE || size <= peer.groups.size() * sizeof(gid_t)) {
      size = 0;
      break;
    }
    peer.groups.resize(size / sizeof(gid_t));
  }
  peer.groups.resize(size / sizeof(gid_t));
  return peer;
}

bool may_change(const Peer& peer, const DaemonInfo& daemon) {
  if (!peer.known) return false;
  if (peer.uid == 0 || peer.uid == daemon.uid) return true;
  if (daemon.control_gid < 0) return false;
  auto allowed = static_cast<gid_t>(daemon.control_gid);
  return peer.gid == allowed ||
         std::find(peer.groups.begin(), peer.groups.end(), allowed) != peer.groups.end();
}

}  // namespace preforkd
