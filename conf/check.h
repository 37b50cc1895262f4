// What must hold between the values of a configuration, each of which is good in itself: names and
// addresses that are used once, limits that agree, one thing to serve a connection; and users that
// exist.
#pragma once

#include "conf/load.h"
#include "conf/problems.h"

namespace preforkd {

void check_settings(const LoadedSettings& loaded, Problems& problems);
// Fills in `users` and `control_gid`. It alone waits for anybody: for the databases of users.
void look_up_users(LoadedSettings& loaded, Problems& problems, const OnStep& on_step);

// The same text for every way to write the same address: "127.0.0.1:07007", "127.1:7007",
// "[0:0::1]:80". Host names are not looked up.
std::string normalized(const ListenAddress& address);

}  // namespace preforkd
