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

namespace preforkd {

struct PoolSettings {
  std::string name;
  std::vector<std::string> listen;  // as written; each parses with parse_listen_address()
  uint32_t backlog = 4096;
  std::string handler;               // a name or a path; exactly one of handler and program is set
  std::vector<std::string> program;  // the path, then its arguments
  std::string settings = "{}";       // the handler's own settings, as a JSON object
  std::string user, group;           // "" = see effective_user() in conf/user.h
  Limits limits;
  uint32_t starting = 32;    // workers that may run the handler's `start` at once
  uint32_t connections = 0;  // a worker is recycled after so many; 0 = never
  Nanoseconds start_timeout = 30 * kSecond;
  Nanoseconds connection_timeout = 0;  // 0 = none
  Nanoseconds drain_timeout = 30 * kSecond;

  bool operator==(const PoolSettings&) const = default;
};

struct ControlSettings {
  std::string socket;                  // "" = RUNTIME_DIR/control.sock
  std::string group;                   // whose members may change things
  std::string web = "127.0.0.1:9707";  // "" = off

  bool operator==(const ControlSettings&) const = default;
};

struct Settings {
  ControlSettings control;
  std::string log_level = "info";
  std::vector<PoolSettings> pools;

  bool operator==(const Settings&) const = default;
};

}  // namespace preforkd
