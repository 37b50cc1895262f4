// From an address as it is written to one that can be bound. Host names are looked up here and nowhere else.
#pragma once

#include "base/address.h"

namespace preforkd {

// The address to bind. A host name gives its first address. Throws SysError (or, for a name that is
// not known, std::runtime_error) with "resolve HOST: reason". Not for kSystemd.
SocketAddress resolve(const ListenAddress& address);

}  // namespace preforkd
