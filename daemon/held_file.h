// A file of the version that runs, held open from the daemon's start on: what is executed, or mapped, later is of this
// version, whatever has the path by then. The daemon has one for each program that it executes, and for libpreforkd.
//
//   replaced (rename, or unlink and create: package managers, install(1), mv)   the file that is open stays as it was
//   written over, or truncated (cp)   from then on its copy in memory, which nobody can change, takes its place
//
// The copy is of what is mapped of a program, without its symbols, and is made at the start. While somebody executes the
// file the kernel lets nobody write to it (ETXTBSY); but there may be no pool of its kind just now, and a library is
// never protected. A file that the daemon may not read (mode 0711, and it is not root) has no copy: of a program
// that is written over then, the numbers of ipc/protocol.h say so at its next start, which is refused.
//
// Over an upgrade in place the next image opens files of its own, and keeps these only until it has taken over: the
// image before needs them should it have to go on (daemon/takeover.h). A SIGKILL leaves nothing: memory has no name.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.h"

namespace preforkd {

struct HeldFileRecord {
  std::string path;
  int file = -1, copy = -1;
  uint64_t size = 0;
  int64_t modified = 0, changed = 0;  // nanoseconds
};

class HeldFile {
 public:
  HeldFile() = default;
  // What is not there is found missing when it is needed.
  explicit HeldFile(std::string path);
  // One that somebody else has opened.
  HeldFile(std::string path, UniqueFd file);
  explicit HeldFile(const HeldFileRecord& record);

  // Once. Throws std::runtime_error for a file that is cut short, or cannot be read. Where there can be no copy, why is logged.
  void make_copy();

  const std::string& path() const { return path_; }
  // For execveat(2): the file, as long as nobody has touched it, then its copy. Throws SysError: "start PATH: reason".
  int to_execute() const;
  // For dlopen(3), by whoever gets it: the copy; -1: there is none.
  int copy() const { return copy_.get(); }

  HeldFileRecord record() const;

 private:
  bool is_untouched() const;

  std::string path_;
  UniqueFd file_, copy_;  // O_PATH; sealed
  int open_error_ = 0;
  uint64_t size_ = 0;
  int64_t modified_ = 0, changed_ = 0;
};

using Held = std::shared_ptr<HeldFile>;

}  // namespace preforkd
