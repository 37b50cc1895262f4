// The file descriptor store of systemd (sd_notify(3), FDSTORE=1): descriptors that it keeps for the service and
// hands to the next daemon, whatever became of this one. Called by the daemon alone.
//
// Whether the unit has a store cannot be asked of systemd before version 254, which sets $FDSTORE; our unit
// sets it itself.
#pragma once

#include <string>

namespace preforkd {

bool has_fd_store();
// The name comes back in $LISTEN_FDNAMES; no ':' and no control characters, at most 255 bytes.
// False, and why is logged: there is no descriptor for the copy that is on its way.
bool store_fd(const std::string& name, int fd);
void unstore_fd(const std::string& name);

}  // namespace preforkd
