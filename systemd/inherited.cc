#include "systemd/inherited.h"

#include <systemd/sd-daemon.h>

#include <cstdlib>

#include "base/error.h"

namespace preforkd {

std::vector<InheritedSocket> take_inherited_sockets() {
  char** names = nullptr;
  int count = sd_listen_fds_with_names(0, &names);
  if (count < 0) throw SysError("read the sockets passed by systemd", -count);

  std::vector<InheritedSocket> sockets;
  for (int i = 0; i < count; i++) {
    sockets.push_back({UniqueFd(SD_LISTEN_FDS_START + i), names[i]});
    std::free(names[i]);
  }
  std::free(names);
  return sockets;
}

}  // namespace preforkd
