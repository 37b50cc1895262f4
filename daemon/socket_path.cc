#include "daemon/socket_path.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <stdexcept>

#include "base/error.h"
#include "base/log.h"
#include "daemon/acting_as.h"
#include "daemon/resolve.h"
#include "daemon/socket_file.h"
#include "daemon/trusted_path.h"

namespace preforkd {
namespace {

std::string folder_of(const std::string& path) {
  return path.substr(0, std::max(path.rfind('/'), size_t{1}));
}

// The folder of a path, with the rights to be used there as long as this lives.
struct Reached {
  std::unique_ptr<ActingAs> rights;
  UniqueFd folder;
  std::string name;
  bool is_shared = false;
  std::string as_whom;  // for messages: "", or " as user alice (reason, and the way out)"
};

// Throws SysError, std::runtime_error: `verb`, and why there is no way to it.
Reached reach(const std::string& verb, const std::string& path, const EffectiveUser& user) {
  TrustedPath found = walk_trusted(path);
  if (found.error) throw SysError(verb, found.error);
  Reached reached;
  reached.name = path.substr(path.rfind('/') + 1);
  if (found.is_trusted()) {
    reached.folder = std::move(found.folder);
    reached.name = found.name;
    reached.is_shared = found.is_shared;
    return reached;
  }
  if (geteuid() == 0 && (!user.change || user.uid == 0))
    throw std::runtime_error(verb + ": " + found.untrusted +
                             ", and root uses folders only that nobody else can change: take "
                             "another, or give it, and all above it, to root");
  if (user.change) {
    reached.as_whom = " as user " + user.name + " (" + found.untrusted +
                      ", so root makes no file there: let " + user.name +
                      " write to the folder, or give it, and all above it, to root)";
    reached.rights = std::make_unique<ActingAs>(user);
  }
  reached.folder.reset(open(folder_of(path).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!reached.folder.is_open()) throw SysError(verb + reached.as_whom, errno);
  return reached;
}

// A socket, and in a sticky folder one of our own. Else nothing, with errno where it could not be looked at.
FileId socket_in(const Reached& at) {
  struct stat s {};
  errno = 0;
  if (fstatat(at.folder.get(), at.name.c_str(), &s, AT_SYMLINK_NOFOLLOW) < 0) return {};
  if (!S_ISSOCK(s.st_mode) || (at.is_shared && s.st_uid != geteuid())) return {};
  return {s.st_dev, s.st_ino};
}

// Whether nobody listens, or will, on a Unix socket that lies at this path: left behind by a crash. `who`: a process that does.
bool is_stale(const SocketAddress& address, const FileId& file, pid_t& who) {
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // Whoever does listen there leaves nothing in it that its end would have to wait for (daemon/close_apart.h).
  if (!probe.is_open() || shutdown(probe.get(), SHUT_RD) < 0) return false;
  if (connect(probe.get(), address.get(), address.length) < 0)
    return errno == ECONNREFUSED && !is_about_to_listen(file.device, file.inode);
  ucred listens{};
  socklen_t size = sizeof listens;
  if (getsockopt(probe.get(), SOL_SOCKET, SO_PEERCRED, &listens, &size) == 0) who = listens.pid;
  return false;
}

// For messages: what is in the way, "" if it cannot be told.
std::string what_is_at(const Reached& at, pid_t who) {
  struct stat s {};
  if (fstatat(at.folder.get(), at.name.c_str(), &s, AT_SYMLINK_NOFOLLOW) < 0) return "";
  std::string what = S_ISLNK(s.st_mode)    ? "a symbolic link"
                     : S_ISDIR(s.st_mode)  ? "a folder"
                     : S_ISREG(s.st_mode)  ? "a regular file"
                     : S_ISSOCK(s.st_mode) ? "a socket"
                                           : "a file";
  what += " of uid " + std::to_string(s.st_uid);
  if (who > 0) what += ", on which process " + std::to_string(who) + " listens,";
  return " (" + what + " is there)";
}

// The file has the mode of the socket, which is 0777 before a umask, from its first moment on. 0 or an errno.
int bind_for_all(int socket, const SocketAddress& address) {
  const mode_t before = umask(0);
  const int error = ::bind(socket, address.get(), address.length) < 0 ? errno : 0;
  umask(before);
  return error;
}

bool is_bound_to(int socket, const SocketAddress& address) {
  return to_string(local_address(socket)) == to_string(address);
}

// Whether what was found is the socket's own. (inode_of_file: nothing where the kernel does not tell.)
bool is_file_of(int socket, const FileId& found) {
  const auto ours = inode_of_file(socket);
  return found.inode && (!ours || *ours == static_cast<uint32_t>(found.inode));
}

// By a step that could not say so.
FileId made_before(const std::string& verb, const Reached& at, int socket) {
  const FileId found = socket_in(at);
  if (!is_file_of(socket, found))
    throw std::runtime_error(verb + ": it was bound, and its file is gone");
  return found;
}

FileId bind_at(const std::string& path, const EffectiveUser& user, int socket,
               const SocketAddress& address) {
  const std::string verb = "bind " + to_string(address);
  if (fchmod(socket, 0666) < 0) throw SysError("fchmod socket for " + to_string(address), errno);
  Reached at = reach(verb, path, user);
  if (is_bound_to(socket, address)) return made_before(verb, at, socket);
  int error = bind_for_all(socket, address);
  std::string whose;
  if (error == EADDRINUSE) {
    const FileId found = socket_in(at);
    pid_t who = 0;
    if (found.inode && is_stale(address, found, who) && found == socket_in(at) &&
        unlinkat(at.folder.get(), at.name.c_str(), 0) == 0)
      error = bind_for_all(socket, address);
    if (error == EADDRINUSE) whose = what_is_at(at, who);
  }
  if (error) throw SysError(verb + at.as_whom + whose, error);
  FileId made = socket_in(at);
  if (!made.inode) made = socket_in(at);  // there may be memory for it now
  // Nobody could say that it is ours, look after it, and take it away; the next step finds it (made_before).
  if (!made.inode) throw SysError(verb + at.as_whom + ": find its file", errno);
  return made;
}

void remove_at(const std::string& verb, const std::string& path, const EffectiveUser& user,
               const FileId& file) {
  const Reached at = reach(verb, path, user);
  const FileId found = socket_in(at);
  if (!found.inode && errno) throw SysError(verb + at.as_whom, errno);
  if (found == file && unlinkat(at.folder.get(), at.name.c_str(), 0) < 0 && errno != ENOENT)
    throw SysError(verb + at.as_whom, errno);
}

// As FileId has room for them.
constexpr uint64_t kOurs = 1, kAnothers = 2;

FileId watch_at(const std::string& verb, const std::string& path, const EffectiveUser& user,
                const FileId& ours, int inotify) {
  const Reached at = reach(verb, path, user);
  const std::string file = "/proc/self/fd/" + std::to_string(at.folder.get()) + "/" + at.name;
  const int number = inotify_add_watch(inotify, file.c_str(),
                                       IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF | IN_DONT_FOLLOW);
  if (number < 0) throw SysError(verb + at.as_whom, errno);
  // Afterwards: another that comes between the two is told of.
  return {static_cast<uint64_t>(number), socket_in(at) == ours ? kOurs : kAnothers};
}

}  // namespace

int SocketPath::watch(int inotify, bool& is_there) const noexcept {
  const std::string verb = "watch unix:" + path_;
  is_there = true;
  try {
    const FileId made = in_file_system(verb, folder_of(path_), inotify, [&] {
      return watch_at(verb, path_, user_, file_, inotify);
    });
    is_there = made.inode == kOurs;
    return static_cast<int>(made.device);
  } catch (const SysError& e) {
    is_there = e.error() != ENOENT && e.error() != ENOTDIR;
    if (is_there)
      log_warning(std::string(e.what()) + ": that its file is removed, only a reload will see");
  } catch (const std::exception& e) {
    log_warning(e.what());
  }
  return -1;
}

std::string SocketPath::in_the_way() const noexcept {
  const std::string verb = "bind unix:" + path_;
  try {
    in_file_system(verb, folder_of(path_), -1, [&] {
      const Reached at = reach(verb, path_, user_);
      ListenAddress address;
      address.kind = ListenAddress::Kind::kUnix;
      address.path = path_;
      pid_t who = 0;
      const FileId found = socket_in(at);
      if (found.inode && is_stale(resolve(address), found, who)) return FileId{};
      const std::string what = what_is_at(at, who);
      if (!what.empty()) throw SysError(verb + what, EADDRINUSE);
      return FileId{};
    });
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

FileId SocketPath::find() const {
  const std::string verb = "find unix:" + path_;
  return in_file_system(verb, folder_of(path_), -1, [&] {
    const Reached at = reach(verb, path_, user_);
    errno = 0;
    const FileId found = socket_in(at);
    if (!found.inode && errno && errno != ENOENT) throw SysError(verb + at.as_whom, errno);
    return found;
  });
}

void SocketPath::bind(int socket, const SocketAddress& address) {
  auto try_it = [&] {
    file_ = in_file_system("bind " + to_string(address), folder_of(path_), socket,
                           [&] { return bind_at(path_, user_, socket, address); });
  };
  try {
    try_it();
  } catch (const NoAnswer&) {
    throw;
  } catch (const std::exception&) {
    if (!is_bound_to(socket, address)) throw;
    try_it();  // it was done, and could not be said: whose file it is has to be known
  }
}

bool SocketPath::recognise(int socket) {
  try {
    const FileId found = find();
    if (!is_file_of(socket, found)) return false;
    file_ = found;
    return true;
  } catch (const NoAnswer& e) {
    log_warning(e.what());
    return true;
  } catch (const std::exception& e) {
    log_warning(e.what());
    return false;
  }
}

bool SocketPath::has_lost(int socket) const noexcept {
  try {
    return !is_file_of(socket, find());
  } catch (const std::exception&) {
    return false;
  }
}

std::optional<bool> SocketPath::is_there() const noexcept {
  try {
    return find() == file_;
  } catch (const SysError& e) {
    if (e.error() == ENOENT || e.error() == ENOTDIR) return false;
  } catch (const std::exception&) {  // no answer, or no process to ask
  }
  return std::nullopt;
}

void SocketPath::remove() noexcept {
  if (!is_ours()) return;
  const std::string verb = "remove unix:" + path_;
  auto try_it = [&] {
    in_file_system(verb, folder_of(path_), -1, [&] {
      remove_at(verb, path_, user_, file_);
      return FileId{};
    });
  };
  try {
    try {
      try_it();
    } catch (const NoAnswer&) {
      throw;
    } catch (const std::exception&) {
      try_it();  // what it wanted for, or who was to do it, may be there now: there is no later occasion
    }
  } catch (const NoAnswer& e) {
    return log_warning(e.what());
  } catch (const SysError& e) {
    if (e.error() != ENOENT) log_warning(e.what());  // its folder is gone, and the file with it
  } catch (const std::exception& e) {
    log_warning(e.what());
  }
  forget();
}

}  // namespace preforkd
