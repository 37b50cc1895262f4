// Who else is in the daemon's own control group, where systemd runs it as a service: what a daemon before it has left,
// which died and could not see to it. With KillMode=process (systemd/preforkd.service.in says why) systemd does not end
// it either. Elsewhere the group has other people's processes, the shell's for instance: nobody is told then.
#pragma once

#include <sys/types.h>

#include <vector>

namespace preforkd {

// Neither this process nor its children. Empty where it is no service (by $SYSTEMD_EXEC_PID, systemd 248 and later),
// and with cgroups of version 1.
std::vector<pid_t> left_by_predecessor();

// SIGKILL to these, if they are in the group yet. Who was forked meanwhile is in the next list.
void kill_left_by_predecessor(const std::vector<pid_t>& left);

}  // namespace preforkd
