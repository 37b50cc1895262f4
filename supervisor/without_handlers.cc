// What preforkd-supervisor-static has instead of worker/handler_library.cc and supervisor/quick_fork.cc: it keeps
// pools of programs, and loads no code. So it is linked statically, which leaves 9 of 24 mappings to be copied at a
// fork and thrown away at an exec (measured: 100 of 350 µs, which a pool of programs needs for each
// connection).
#include <unistd.h>

#include <stdexcept>

#include "supervisor/quick_fork.h"
#include "worker/handler_library.h"

namespace preforkd {

pid_t quick_fork() { return _Fork(); }

HandlerLibrary::HandlerLibrary(const std::string& path, int) : handler_(nullptr) {
  throw std::runtime_error("load " + path + ": this supervisor has programs only");
}

void HandlerLibrary::preload(const std::string&, const std::string&) {}

}  // namespace preforkd
