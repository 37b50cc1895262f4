// From an address as it is written to one that can be bound. Host names are looked up here and nowhere else: by
// look_up(), which may wait for as long as the resolver likes, and is for who loads a configuration. Never for the
// daemon while it serves.
#pragma once

#include "base/address.h"

namespace preforkd {

// The address to bind. Nobody is asked: of a host that is a name (or a number that is none) it throws
// std::runtime_error "resolve HOST: reason". Not for kSystemd.
SocketAddress resolve(const ListenAddress& address);

// Whether it takes look_up() to know the host.
bool is_host_name(const ListenAddress& address);
// The first address of a host name, as a number. Throws SysError (or, for a name that is not known,
// std::runtime_error) with "resolve HOST: reason".
std::string look_up(const std::string& host);

}  // namespace preforkd
