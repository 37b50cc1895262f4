// The descriptors that systemd hands to the daemon: the sockets of preforkd.socket. They are given
// out as they came; whether each one is a listening stream socket is for the caller to check when a
// pool asks for it by name (`listen = [ "systemd:NAME" ]`), so that one that nobody asks for harms
// nobody.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"

namespace preforkd {

struct InheritedSocket {
  UniqueFd fd;       // CLOEXEC
  std::string name;  // FileDescriptorName= of the socket unit; several sockets may share one
};

// The first call takes them all, in systemd's order; they are owned by the caller from then on, so
// that a second call would own them twice. Empty when systemd did not start this process. Throws
// SysError when $LISTEN_FDS and $LISTEN_FDNAMES cannot be understood.
std::vector<InheritedSocket> take_inherited_sockets();

}  // namespace preforkd
