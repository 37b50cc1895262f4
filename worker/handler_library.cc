#include "worker/handler_library.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "base/elf_file.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/memory_file.h"
#include "base/surroundings.h"

namespace preforkd {
namespace {

// dlerror() begins with the file it was given, which may be a descriptor's path; say the user's path.
std::string load_error(const std::string& path, const std::string& opened) {
  const char* said = dlerror();
  std::string reason = said ? said : "unknown error";
  if (reason.starts_with(opened + ": ")) reason.erase(0, opened.size() + 2);
  return "load " + path + ": " + reason;
}

// (Non-blocking: should it be a pipe, nobody is there to write.)
UniqueFd open_file(const std::string& path, UniqueFd of_daemon) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const int error = errno;
  if (!file.is_open() && error == EACCES) file = std::move(of_daemon);
  if (!file.is_open())
    throw std::runtime_error("load " + path + ": " + std::strerror(error) +
                             (error == EACCES ? " (the pool's user must be able to read it, unless"
                                                " nobody but root can change it or its folders)"
                                              : ""));
  struct stat s {};
  if (fstat(file.get(), &s) < 0) throw SysError("load " + path, errno);
  if (!S_ISREG(s.st_mode)) throw std::runtime_error("load " + path + ": not a regular file");
  return file;
}

// False: it cannot be had in memory, or would not find there what it needs.
bool copy_to_memory(const std::string& path, int file, UniqueFd& copy) {
  auto without = [&path](int error) {
    log_warning("copy " + path + " to memory: " + std::strerror(error) +
                ": it is loaded from its file, which is not to be overwritten");
    return false;
  };
  try {
    copy = make_memory_file(path);
  } catch (const SysError& e) {
    return without(e.error());
  }
  const RoomForLargeFile room;
  const std::string origin = "$ORIGIN";
  std::string kept;  // the end of the piece before, where the word may have begun
  std::vector<char> buffer(256 * 1024);
  for (ssize_t n; (n = read(file, buffer.data(), buffer.size())) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return without(errno);
    for (ssize_t written = 0, more; written < n; written += more)
      if ((more = write(copy.get(), buffer.data() + written, static_cast<size_t>(n - written))) < 0)
        return without(errno);
    kept.append(buffer.data(), static_cast<size_t>(n));
    if (kept.find(origin) != kept.npos || kept.find("${ORIGIN}") != kept.npos) return false;
    kept.erase(0, kept.size() - std::min(kept.size(), origin.size() + 2));
  }
  return fcntl(copy.get(), F_ADD_SEALS, kAllSeals) == 0 || without(errno);
}

// What is no ELF file at all dlopen() has words for.
void expect_whole(const std::string& path, int fd) {
  struct stat s {};
  const auto needed = mapped_part(fd);
  if (needed && fstat(fd, &s) == 0 && static_cast<uint64_t>(s.st_size) < *needed)
    throw std::runtime_error("load " + path + ": " + kCutShort + ": " + std::to_string(s.st_size) +
                             " bytes of " + std::to_string(*needed) + " at least");
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
  // (What is not open was not given.)
  UniqueFd file = open_file(path, UniqueFd(fcntl(fd, F_GETFD) < 0 ? -1 : fd)), copy;
  const bool in_memory = copy_to_memory(path, file.get(), copy);
  const bool by_path = !in_memory && access(path.c_str(), R_OK) == 0;  // $ORIGIN is its folder then
  const int source = in_memory ? copy.get() : file.get();
  const std::string opened = by_path ? path : "/proc/self/fd/" + std::to_string(source);
  expect_whole(path, source);
  if (in_memory || by_path) file.reset();
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
