// Where things are: beside the executable in a build folder, else under PREFIX.
#pragma once

#include <string>

#include "conf/settings.h"

namespace preforkd {

struct Paths {
  std::string daemon;  // this program's file, or the one that has taken its place
  std::string supervisor, static_supervisor, control, log;  // those of libexec
  std::string handlers;  // the folder of the handlers that are named without a path
  std::string runtime;   // RUNTIME_DIR

  // `runtime_dir` "": $RUNTIME_DIRECTORY, /run/preforkd for root, $XDG_RUNTIME_DIR/preforkd,
  // /tmp/preforkd-UID. Nothing is made or checked here.
  static Paths find(const std::string& runtime_dir);

  // Which of the two keeps such a pool (daemon/without_handlers.cc).
  const std::string& supervisor_for(const PoolSettings& settings) const {
    return settings.handler.empty() ? static_supervisor : supervisor;
  }
  // The file of a handler: as written if it is a path, else HANDLERS/NAME.so.
  std::string handler_file(const std::string& handler) const;
};

// Makes the runtime directory where it is missing. Throws SysError, or std::runtime_error for one that others than
// root and us could exchange: always as root, else in /tmp.
void make_runtime_directory(const std::string& path);

}  // namespace preforkd
