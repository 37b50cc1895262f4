#include "daemon/paths.h"

#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <stdexcept>

#include "base/error.h"
#include "daemon/trusted_path.h"

namespace preforkd {
namespace {

// Without links.
std::string own_file() {
  char path[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n < 0) throw SysError("readlink /proc/self/exe", errno);
  std::string file(path, static_cast<size_t>(n));
  const std::string replaced = " (deleted)";  // proc(5)
  if (file.ends_with(replaced)) file.resize(file.size() - replaced.size());
  return file;
}

// As it was executed, where that is a path and still names this very file. (Not by a descriptor, as an upgrade does it.)
std::string own_name() {
  const auto* executed = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  struct stat named {
  }, self{};
  if (!executed || stat(executed, &named) < 0 || stat("/proc/self/exe", &self) < 0 ||
      named.st_dev != self.st_dev || named.st_ino != self.st_ino ||
      std::string(executed).starts_with("/dev/fd/") || std::string(executed).starts_with("/proc/"))
    return own_file();
  // (Not made shorter: what is before a ".." may be a link.)
  return std::filesystem::absolute(executed).string();
}

// (What cannot be looked at is.)
bool is_there(const std::string& path) {
  return access(path.c_str(), F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

std::string beside_or_installed(const std::string& folder, const std::string& name) {
  std::string beside = folder + "/" + name;
  return is_there(beside) ? beside : PREFORKD_PREFIX "/lib/preforkd/" + name;
}

std::string folder_of(const std::string& file) { return file.substr(0, file.rfind('/')); }

// Beside the supervisor in a build folder; installed, the library is a folder further up.
std::string library_of(const std::string& libexec) {
  const std::string name = "/libpreforkd.so.1", beside = libexec + name;
  return is_there(beside) ? beside : folder_of(libexec) + name;
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
  paths.daemon = own_name();
  const std::string folder = folder_of(own_file());
  auto hold = [&](const char* name) {
    return std::make_shared<HeldFile>(beside_or_installed(folder, name));
  };
  paths.supervisor = hold("preforkd-supervisor");
  paths.static_supervisor = hold("preforkd-supervisor-static");
  paths.control = hold("preforkd-control");
  paths.log = hold("preforkd-log");
  paths.libexec = folder_of(paths.static_supervisor->path());
  paths.library = std::make_shared<HeldFile>(library_of(paths.libexec));
  paths.handlers = beside_or_installed(folder, "handlers");
  paths.runtime = runtime_dir.empty() ? default_runtime_directory() : runtime_dir;
  return paths;
}

void Paths::keep_copies() {
  for (const Held& file : {supervisor, static_supervisor, control, log, library}) file->make_copy();
}

std::vector<HeldFileRecord> Paths::held() const {
  std::vector<HeldFileRecord> records;
  for (const Held& file : {supervisor, static_supervisor, control, log, library})
    records.push_back(file->record());
  return records;
}

void Paths::resume(const std::vector<HeldFileRecord>& held) {
  Held* all[] = {&supervisor, &static_supervisor, &control, &log, &library};
  for (size_t i = 0; i < std::size(all); ++i) *all[i] = std::make_shared<HeldFile>(held.at(i));
  libexec = folder_of(static_supervisor->path());
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
