#include "daemon/paths.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <stdexcept>

#include "base/error.h"

namespace preforkd {
namespace {

std::string own_file() {
  char path[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n < 0) throw SysError("readlink /proc/self/exe", errno);
  std::string file(path, static_cast<size_t>(n));
  const std::string replaced = " (deleted)";  // proc(5)
  if (file.ends_with(replaced)) file.resize(file.size() - replaced.size());
  return file;
}

std::string beside_or_installed(const std::string& folder, const std::string& name) {
  std::string beside = folder + "/" + name;
  return access(beside.c_str(), F_OK) == 0 ? beside : PREFORKD_PREFIX "/lib/preforkd/" + name;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string default_runtime_directory() {
  std::string given = environment("RUNTIME_DIRECTORY");
  if (!given.empty()) return given.substr(0, given.find(':'));  // systemd may list several
  if (geteuid() == 0) return "/run/preforkd";
  std::string session = environment("XDG_RUNTIME_DIR");
  if (!session.empty()) return session + "/preforkd";
  return "/tmp/preforkd-" + std::to_string(geteuid());
}

}  // namespace

Paths Paths::find(const std::string& runtime_dir) {
  Paths paths;
  paths.daemon = own_file();
  const std::string folder = paths.daemon.substr(0, paths.daemon.rfind('/'));
  paths.supervisor = beside_or_installed(folder, "preforkd-supervisor");
  paths.static_supervisor = beside_or_installed(folder, "preforkd-supervisor-static");
  paths.control = beside_or_installed(folder, "preforkd-control");
  paths.handlers = beside_or_installed(folder, "handlers");
  paths.runtime = runtime_dir.empty() ? default_runtime_directory() : runtime_dir;
  return paths;
}

std::string Paths::handler_file(const std::string& handler) const {
  return handler.find('/') != handler.npos ? handler : handlers + "/" + handler + ".so";
}

void make_runtime_directory(const std::string& path) {
  struct stat s {};
  if (mkdir(path.c_str(), 0755) < 0 && errno != EEXIST)
    throw SysError("make runtime directory " + path, errno);
  if (lstat(path.c_str(), &s) < 0) throw SysError("stat runtime directory " + path, errno);
  // In /tmp anybody could have made it first, to put a socket of their own where ours should be.
  bool trap = !S_ISDIR(s.st_mode) || s.st_uid != geteuid();
  if (path.starts_with("/tmp/") && trap)
    throw std::runtime_error("runtime directory " + path + " is not ours");
}

}  // namespace preforkd
