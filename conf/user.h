// Who a pool's processes run as. Asks the system's databases of users and groups, so it may block
// on the network where those are remote: for the daemon while it loads a configuration, nobody
// else.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

namespace preforkd {

struct EffectiveUser {
  uid_t uid;
  gid_t gid;
  std::string name;
  bool change;  // false when not root: there is nothing to change
  // Where there is: all its groups, the primary one among them.
  std::vector<gid_t> groups = {};

  bool operator==(const EffectiveUser&) const = default;
};

// `user` "": as root "preforkd" if it exists, else "nobody"; otherwise the caller itself, the only
// one whom a caller that is not root may name. `group` "": the user's primary group. On failure
// nothing, and the reason in `error`.
std::optional<EffectiveUser> effective_user(const std::string& user, const std::string& group,
                                            std::string& error, uid_t caller = geteuid());

// Who the processes run as that serve all pools: control, and what writes the log. As root each has a user of its own,
// whom no pool may have (effective_user() refuses it), so that nobody whose code runs in a pool can signal it or look
// into it: the one of that name, if there is one (the installed sysusers.d makes it), else a uid that has no name here.
// Otherwise the caller itself.
enum class Service { kControl, kLog };
std::optional<EffectiveUser> service_user(Service service, std::string& error,
                                          uid_t caller = geteuid());

std::optional<gid_t> find_group(const std::string& name, std::string& error);

}  // namespace preforkd
