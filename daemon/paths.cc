#include "daemon/paths.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "base/error.h"
#include "base/trusted_path.h"

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
  paths.log = beside_or_installed(folder, "preforkd-log");
  paths.handlers = beside_or_installed(folder, "handlers");
  paths.runtime = runtime_dir.empty() ? default_runtime_directory() : runtime_dir;
  return paths;
}

std::string Paths::handler_file(const std::string& handler) const {
  return handler.find('/') != handler.npos ? handler : handlers + "/" + handler + ".so";
}

void make_runtime_directory(const std::string& path) {
  const std::string verb = "runtime directory " + path;
  const std::string whole = std::filesystem::absolute(path).lexically_normal().string();
  // Somebody could have made it first, or exchange it, to put a socket of their own where ours should be. (Who runs
  // preforkd for themselves, in folders that a group of theirs may write to, knows whom they trust.)
  auto check = [&](const std::string& at) {
    const TrustedPath found = walk_trusted(at);
    if (found.error) throw SysError(verb, found.error);
    if (!found.is_trusted() && (geteuid() == 0 || path.starts_with("/tmp/")))
      throw std::runtime_error(verb + " is not ours alone: " + found.untrusted);
  };
  check(whole);  // before anything is made
  if (mkdir(whole.c_str(), 0755) < 0 && errno != EEXIST) throw SysError("make " + verb, errno);
  check(whole + "/control.sock");
}

}  // namespace preforkd
