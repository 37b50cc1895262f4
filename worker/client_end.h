// Whether a client has ended its connection, by all that the kernel knows of it: what makes a connection that did not go
// well an aborted one, and not a failed one (shm/outcome.h). Asked only then, by whoever has the connection at its end: the
// worker itself, libpreforkd in a program that accepts by itself, and for a program the process that has a copy of its
// connection. A connection that went well costs nothing.
#pragma once

#include "shm/outcome.h"

namespace preforkd {

// Of a connected socket that is still open.
//   kGone      TCP   the client has reset it, or is out of reach (both leave the state CLOSE). Nothing goes either way any
//                    more: whoever closes it need not care for what is unread.
//   kFinished  TCP   its FIN has come, and nothing at all was ever sent to it. A FIN alone does not say whether the client
//                    waits for an answer; of one that has had a part of it, nothing is known but that.
//              Unix  the client has closed it, or ended; with what we had sent unread that is a reset.
//   kNot       none of that; or whoever serves has shut the connection down himself, and of TCP the client has confirmed
//              that (it is in the state CLOSE then, too); or `fd` is no socket, or none that is connected.
// Allocates nothing. An error that waits in the socket stays there.
enum class ClientEnd { kNot, kFinished, kGone };
ClientEnd client_end(int fd);

// `served`: whoever serves says that it went well; of those nobody asks how the client ended.
inline Outcome outcome_of(bool served, ClientEnd end) {
  if (served) return Outcome::kServed;
  return end == ClientEnd::kNot ? Outcome::kFailed : Outcome::kAborted;
}

}  // namespace preforkd
