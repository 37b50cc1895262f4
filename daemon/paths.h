// Where things are: beside the executable in a build folder, else under PREFIX. And those that are held open from the
// start on (daemon/held_file.h).
#pragma once

#include <string>
#include <vector>

#include "conf/settings.h"
#include "daemon/held_file.h"

namespace preforkd {

struct Paths {
  // As this program was called, with its links: what an upgrade executes is what it names then. (All else is that of the
  // release that runs.)
  std::string daemon;
  Held supervisor, static_supervisor, control, log;  // those of libexec
  Held library;          // libpreforkd, for pools with `serve`; it may be missing
  std::string libexec;   // the folder of the supervisors
  std::string handlers;  // the folder of the handlers that are named without a path
  std::string runtime;   // RUNTIME_DIR

  // `runtime_dir` "": $RUNTIME_DIRECTORY, /run/preforkd for root, $XDG_RUNTIME_DIR/preforkd,
  // /tmp/preforkd-UID. Nothing is made or checked here.
  static Paths find(const std::string& runtime_dir);

  // Has copies made of what is held. Throws std::runtime_error: one of them is cut short.
  void keep_copies();
  // Over an exec: the same files, for the image that opened them.
  std::vector<HeldFileRecord> held() const;
  void resume(const std::vector<HeldFileRecord>& held);

  // Which of the two keeps such a pool (supervisor/without_handlers.cc).
  const Held& supervisor_for(const PoolSettings& settings) const {
    return settings.is(ServerKind::kHandler) ? supervisor : static_supervisor;
  }
  // The file of a handler: as written if it is a path, else HANDLERS/NAME.so.
  std::string handler_file(const std::string& handler) const;
};

// Makes the runtime directory where it is missing. Throws SysError, or std::runtime_error for one that others than
// root and us could exchange: always as root, else in /tmp.
void make_runtime_directory(const std::string& path);

}  // namespace preforkd
