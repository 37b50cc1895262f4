// Program per connection: the pre-forked worker accepts, and then becomes the program.
#pragma once

#include <string>
#include <vector>

#include "worker/acceptor.h"

namespace preforkd {

// The environment that UCSPI defines (PROTO, TCPLOCALIP, TCPLOCALPORT, TCPREMOTEIP, TCPREMOTEPORT; for
// Unix sockets PROTO=UNIX, UNIXLOCALPATH, UNIXREMOTEPID, UNIXREMOTEEUID, UNIXREMOTEEGID as ucspi-unix has
// them), plus REMOTE_ADDR, REMOTE_PORT and REMOTE_HOST (the address: nothing is looked up), as
// "NAME=value". It is made between accept and exec, by a process in which nearly each function of libc, and
// each page of the heap, would be touched for the first time: so it uses neither (measured: 120 µs less of
// the 700 that a connection to /bin/cat takes).
class ConnectionEnvironment {
 public:
  [[gnu::hot]] ConnectionEnvironment(const SocketAddress& local, const SocketAddress& peer,
                                     const ucred& unix_peer);
  ConnectionEnvironment(const ConnectionEnvironment&) = delete;
  ConnectionEnvironment& operator=(const ConnectionEnvironment&) = delete;

  static constexpr size_t kMost = 8;
  size_t size() const { return count_; }
  char* operator[](size_t index) { return entries_[index]; }

 private:
  void begin(const char* name);
  void add(const char* text);
  void add_number(uint64_t number);
  void add_ip(const SocketAddress& address);
  void add_port(const SocketAddress& address);

  char* entries_[kMost];
  size_t count_ = 0, used_ = 0;
  char text_[512];  // of a Unix socket 108 + 120, of TCP 4 * 46 + 4 * 6 + 120
};

// The daemon's environment, but for what would lie about the connection or about preforkd's own start.
std::vector<std::string> environment_of_programs();

// Whether argv[0] can be executed by the calling user (worker/executable.h). "" or "execute PATH: reason".
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
  [[gnu::hot]] std::string become(const Accepted& connection, int nudge_signal) const;

 private:
  std::vector<std::string> argv_, environment_;
  // Pointers into those; the first ends with a null pointer, behind the second comes the connection's own.
  std::vector<char*> argv_pointers_, environment_pointers_;
  std::vector<int> ignored_;  // signals that were, when this was made
};

}  // namespace preforkd
