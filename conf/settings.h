// The configuration as plain structs: what conf/load.h makes of a file, what the daemon works by,
// and what a supervisor gets, as JSON, of its own pool. Values, no behaviour; every default here is
// the default of conf/preforkd.conf.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/process_settings.h"

namespace preforkd {

// Options of the TCP sockets that a pool listens on; who is accepted there inherits nodelay and keepalive.
struct TcpOptions {
  bool nodelay = false;
  uint32_t keepalive = 0;  // seconds of silence before the peer is asked; 0 = it never is
  uint32_t defer_accept =
      0;  // seconds that a client may be silent before it is accepted anyway; 0 = at once
  uint32_t fast_open = 0;   // how many may wait with data in their SYN; 0 = off
  bool reuse_port = false;  // while it is bound, so it cannot change afterwards
  bool freebind = false;    // it may be bound to an address that this machine does not have yet

  bool operator==(const TcpOptions&) const = default;
};

// What serves a pool's connections.
enum class ServerKind {
  kHandler,  // a shared object, in the worker itself
  kProgram,  // a program for each connection, on its stdin and stdout
  kServe,    // a program that accepts by itself
};

struct PoolSettings {
  std::string name;
  std::vector<std::string> listen;  // as written; each parses with parse_listen_address()
  uint32_t backlog = 4096;
  // Exactly one of these three is set: kind() says which.
  std::string handler;               // a name or a path
  std::vector<std::string> program;  // the path, then its arguments
  std::vector<std::string>
      serve;             // a program that accepts by itself: a name or a path, then its arguments
  bool preload = false;  // it is started once, and forked where it waits for its first client
  // "stdin" or "fd3": serve accepts by libc's accept() on a socket that it finds there; "": it calls libpreforkd.
  std::string accept;
  std::vector<uint32_t> success = {
      0};                       // exit statuses with which `program` has served its connection
  std::string settings = "{}";  // the handler's own settings, as a JSON object
  std::vector<std::string> allow, deny;  // networks whose clients are let in, or not
  uint32_t per_source = 0;               // connections at once from one address; 0 = no limit
  bool proxy_protocol = false;           // each connection begins with a PROXY header
  std::vector<std::string> trusted;      // ... and comes from one of these networks
  // While all workers are busy at max and more than so many connections wait, the oldest is answered with the
  // message; "" = it waits on.
  uint32_t saturation_queue = 0;
  std::string saturation_message;
  std::string user, group;  // "" = see effective_user() in conf/user.h
  ProcessSettings process;
  TcpOptions tcp;
  Limits limits;
  uint32_t starting = 32;  // workers that may run the handler's `start` at once
  // A worker is recycled after so many connections, at this age, when so much of it is resident (MiB); 0 =
  // never; and not while it is younger than min_age.
  uint32_t connections = 0;
  Nanoseconds max_age = 0;
  uint32_t max_rss = 0;
  Nanoseconds min_age = 0;
  Nanoseconds start_timeout = 30 * kSecond;
  Nanoseconds slow_timeout = 0;        // a connection that takes longer is logged; 0 = none is
  Nanoseconds connection_timeout = 0;  // 0 = none
  Nanoseconds drain_timeout = 30 * kSecond;

  // The first time at which a connection can be too long; 0 = never.
  Nanoseconds first_deadline() const {
    if (slow_timeout == 0 || connection_timeout == 0) return slow_timeout + connection_timeout;
    return slow_timeout < connection_timeout ? slow_timeout : connection_timeout;
  }

  ServerKind kind() const {
    return !serve.empty()     ? ServerKind::kServe
           : !program.empty() ? ServerKind::kProgram
                              : ServerKind::kHandler;
  }
  bool is(ServerKind wanted) const { return kind() == wanted; }
  // The key that says what serves, and the file that it names.
  const char* server_key() const {
    constexpr const char* kKeys[] = {"handler", "program", "serve"};
    return kKeys[static_cast<size_t>(kind())];
  }
  const std::string& server_file() const {
    return is(ServerKind::kServe) ? serve[0] : is(ServerKind::kProgram) ? program[0] : handler;
  }

  bool operator==(const PoolSettings&) const = default;
};

struct ControlSettings {
  std::string socket;                  // "" = RUNTIME_DIR/control.sock
  std::string group;                   // whose members may change things
  std::string web = "127.0.0.1:9707";  // "" = off
  std::vector<std::string> hosts;      // names by which web may be asked for

  bool operator==(const ControlSettings&) const = default;
};

struct Settings {
  ControlSettings control;
  std::string log_level = "info";
  std::vector<PoolSettings> pools;

  bool operator==(const Settings&) const = default;
};

}  // namespace preforkd
