// A program that accepts by itself (`serve`): what a worker does to become it, and what libpreforkd finds there.
// The program goes on as the worker that it was started as: in the same slot, with a start ticket taken, as a process
// group of its own.
//
// Handed on by inheritance: descriptor 1 becomes the log; the pool's segment, its settings as a JSON document, its
// lists of networks, its listen sockets and the way to the closer stay open under the numbers that they have; and one
// variable says what they are:
//
//   PREFORKD_WORKER=LAYOUT PID SUPERVISOR SLOT CAPACITY SEGMENT SETTINGS NETWORKS FIRST_LISTEN LISTEN_SOCKETS LOG_LEVEL LIBRARY CLOSER ORDERS ACCEPTS_ON
//
// A second one, PREFORKD_LIBRARY, says what to load: libpreforkd of the supervisor's own version, in memory that nobody
// can change, by the descriptor LIBRARY (closed by the first call that needs to be a worker; -1: there is none, and it
// is a path). A program that is linked with libpreforkd has another of its own, maybe of another version: LAYOUT comes
// first, and whoever finds another than its own there reads no further.
//
// A template (template/point.h) is no worker, and becomes none: ORDERS is its way to the supervisor, SLOT means nothing, and
// it has the library preloaded (LD_PRELOAD).
//
// A program that knows nothing of libpreforkd and accepts by libc's accept() has it preloaded, too (interpose/listener.h): it finds
// a listen socket as descriptor ACCEPTS_ON (-1: it calls libpreforkd), 0 or, with LISTEN_PID and LISTEN_FDS as sd_listen_fds(3)
// wants them, 3.
//
// (numbers; PID is the worker's own: a child that inherits the variable is told that it is another process). A program
// can do to the segment whatever a handler can, and no more.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shm/layout.h"

namespace preforkd {

struct ServingWorker {
  uint32_t layout;  // shm::kLayoutVersion of who wrote it
  pid_t pid, supervisor;
  uint32_t slot, capacity;
  int segment, settings, networks, first_listen;
  uint32_t listen_sockets;
  int log_level;
  int library;
  int closer;      // worker/closing.h; -1: there is none
  int orders;      // of a template; -1: it is a worker
  int accepts_on;  // -1: it calls libpreforkd

  std::string to_text() const;
  // Of another layout than this library's: that alone can be relied on. Nothing: it is none.
  static std::optional<ServingWorker> from_text(const char* text);
};

// The file that `name` stands for: itself if there is a slash in it, else the first one of this name in $PATH that
// can be executed; "" if there is none.
std::string find_program(const std::string& name);

// Everything that can be made before the fork.
class ServingProgram {
 public:
  // Of `worker` all but pid, slot and orders. The bindings are looked for in `folder`, the supervisor's own; `library` is used
  // for want of its descriptor.
  ServingProgram(const std::vector<std::string>& argv, const std::string& folder,
                 const std::string& library, const ServingWorker& worker);

  // Both return only if it cannot be executed: with the reason.
  std::string become(uint32_t slot) const;
  // `orders`: the template's end of its way to the supervisor.
  std::string become_template(int orders) const;

 private:
  std::string become(const ServingWorker& worker) const;
  std::vector<std::string> environment_for(const ServingWorker& worker) const;

  std::string file_;
  std::string library_;  // to be loaded by this path
  std::vector<std::string> argv_, environment_;
  ServingWorker worker_;
};

}  // namespace preforkd
