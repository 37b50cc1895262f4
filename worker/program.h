// Program per connection: the pre-forked worker accepts, and then becomes the program.
#pragma once

#include <string>
#include <vector>

#include "worker/acceptor.h"

namespace preforkd {

// The environment that UCSPI defines (PROTO, TCPLOCALIP, TCPLOCALPORT, TCPREMOTEIP, TCPREMOTEPORT; for
// Unix sockets PROTO=UNIX, UNIXLOCALPATH, UNIXREMOTEPID, UNIXREMOTEUID, UNIXREMOTEEGID as ucspi-unix has
// them), plus REMOTE_ADDR, REMOTE_PORT and REMOTE_HOST (the address: nothing is looked up), as
// "NAME=value". Pure.
std::vector<std::string> connection_environment(const SocketAddress& local,
                                                const SocketAddress& peer, const ucred& unix_peer);

// Checks, as the calling user, that argv[0] is a file that can be executed. "" or "execute PATH: reason".
std::string program_trouble(const std::vector<std::string>& argv);

// Everything of a program that can be made before its client comes, so that little is left between
// accept and exec.
class Program {
 public:
  // Keeps the daemon's environment, but for what would lie about this connection.
  explicit Program(const std::vector<std::string>& argv);

  // Descriptors 0 and 1 become the connection, 2 stays (the log), all others close; signal dispositions
  // and mask are reset. `nudge_signal` is thrown away if it is pending. Returns only if exec fails, with
  // the reason.
  std::string become(const Accepted& connection, int nudge_signal) const;

 private:
  std::vector<std::string> argv_, environment_;
  // What exec takes: pointers into those; the second with room for the connection's own behind them.
  std::vector<char*> argv_pointers_, environment_pointers_;
  std::vector<int> ignored_;  // signals that were, when this was made
};

}  // namespace preforkd
