// The daemon's use of systemd's descriptor store: its own listen sockets are kept there, so that a daemon that
// was killed leaves no client refused, and a restart neither: connections wait in the kernel's queue until the
// next one serves them. Each is named "preforkd/POOL@UID/ENTRY", ENTRY being that of `listen` with ':' as '='; of a
// port 0 the port that it got comes behind it. UID is whose processes have had it: a pool of another user gets another
// socket, and who waits in this one is refused. (One without UID is of an older daemon, and nobody knows whose.)
//
// A daemon killed between storing a socket and starting its supervisor leaves one that the next daemon finds and
// uses, or, when its configuration has no use for it, removes. One killed between opening and storing: nothing,
// the kernel closes it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "daemon/listener.h"

namespace preforkd {

// Takes what a daemon before us has stored out of what systemd passed; by pool, whose users are those in `users`. What
// cannot be used is removed from the store.
std::map<std::string, Listeners> recover_stored(std::vector<InheritedSocket>& inherited,
                                                const std::map<std::string, EffectiveUser>& users);

// Nothing without a store. Sockets that systemd passed from a socket unit are not ours to store.
void store_sockets(const std::string& pool, const Listeners& listeners);
// From here on it is ours alone, and may be given up.
void unstore_socket(Listener& listener);

}  // namespace preforkd
