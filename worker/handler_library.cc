#include "worker/handler_library.h"

#include <dirent.h>
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace preforkd {
namespace {

// dlerror() begins with the file it was given, which may be a descriptor's path; say the user's path.
std::string load_error(const std::string& path, const std::string& opened) {
  const char* said = dlerror();
  std::string reason = said ? said : "unknown error";
  if (reason.starts_with(opened + ": ")) reason.erase(0, opened.size() + 2);
  return "load " + path + ": " + reason;
}

size_t threads_of_this_process() {
  DIR* tasks = opendir("/proc/self/task");
  if (!tasks) return 1;
  size_t count = 0;
  while (const dirent* entry = readdir(tasks)) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

}  // namespace

HandlerLibrary::HandlerLibrary(const std::string& path, int fd) : path_(path) {
  std::string opened = path;
  if (access(path.c_str(), R_OK) != 0) {
    if (errno != EACCES || fd < 0)
      throw std::runtime_error("load " + path + ": " + std::strerror(errno));
    opened = "/proc/self/fd/" + std::to_string(fd);
  }
  struct stat s {};
  if (stat(opened.c_str(), &s) == 0 && !S_ISREG(s.st_mode))  // dlopen would wait at a pipe
    throw std::runtime_error("load " + path + ": not a regular file");
  void* library = dlopen(opened.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(load_error(path, opened));
  handler_ = static_cast<const struct preforkd_handler*>(dlsym(library, "preforkd_handler"));
  if (!handler_)
    throw std::runtime_error("load " + path +
                             ": no symbol preforkd_handler: not a preforkd handler");
  if (handler_->abi == 0 || handler_->abi > PREFORKD_ABI)
    throw std::runtime_error("load " + path + ": handler ABI version " +
                             std::to_string(handler_->abi) + ", this preforkd supports 1 to " +
                             std::to_string(PREFORKD_ABI));
  if (handler_->size < sizeof(struct preforkd_handler) || !handler_->serve)
    throw std::runtime_error("load " + path + ": its preforkd_handler is incomplete");
}

void HandlerLibrary::preload(const std::string& pool, const std::string& settings) {
  pool_ = pool;
  settings_ = settings;
  host_ = make_host(pool_, settings_);
  if (!handler_->preload) return;
  if (int code = handler_->preload(&host_, &state_))
    throw std::runtime_error("preload " + path_ + ": it returned " + std::to_string(code));
  if (const size_t threads = threads_of_this_process(); threads > 1)
    throw std::runtime_error("preload " + path_ + ": it left " + std::to_string(threads - 1) +
                             (threads == 2 ? " thread" : " threads") +
                             " behind, which no worker would have: make them in start");
}

}  // namespace preforkd
