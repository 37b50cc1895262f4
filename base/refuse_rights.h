// Nobody can attach descriptors to what is sent to a Unix socket, nor to one that is accepted from it from then on: they
// are closed in the one who reads, and closing may take as long as the sender likes (a TCP socket with SO_LINGER and
// unsent data). The sender gets EPERM. Used by the daemon, which makes the control socket, and by control. Without
// effect before Linux 6.16.
#pragma once

#include <sys/socket.h>

// Debian 12's headers do not know it yet.
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

namespace preforkd {

inline void refuse_rights(int socket) {
  const int off = 0;
  setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof off);
}

}  // namespace preforkd
