// From an address as it is written to one that can be bound. Host names are looked up here and nowhere else: by
// look_up(), which may wait for as long as the resolver likes, and is for who loads a configuration. Never for the
// daemon while it serves.
#pragma once

#include <string>
#include <vector>

#include "base/address.h"

namespace preforkd {

// The address to bind. Nobody is asked: of a host that is a name (or a number that is none) it throws
// std::runtime_error "resolve HOST: reason". Not for kSystemd.
SocketAddress resolve(const ListenAddress& address);

// Whether it takes look_up() to know the host.
bool is_host_name(const ListenAddress& address);
// All addresses of a host name, as numbers, each once; but none of a family that this machine does not have (a
// container without IPv6, in whose /etc/hosts localhost is ::1, too), if there are others. Throws SysError (or, for a
// name that is not known, std::runtime_error) with "resolve HOST: reason".
std::vector<std::string> look_up(const std::string& host);

}  // namespace preforkd
