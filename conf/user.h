// Who a pool's processes run as. Asks the system's databases of users and groups, so it may block
// on the network where those are remote: for the daemon while it loads a configuration, nobody
// else.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <optional>
#include <string>

namespace preforkd {

struct EffectiveUser {
  uid_t uid;
  gid_t gid;
  std::string name;
  bool change;  // false when not root: there is nothing to change
};

// `user` "": as root "preforkd" if it exists, else "nobody"; otherwise the caller itself, the only
// one whom a caller that is not root may name. `group` "": the user's primary group. On failure
// nothing, and the reason in `error`.
std::optional<EffectiveUser> effective_user(const std::string& user, const std::string& group,
                                            std::string& error, uid_t caller = geteuid());

std::optional<gid_t> find_group(const std::string& name, std::string& error);

}  // namespace preforkd
