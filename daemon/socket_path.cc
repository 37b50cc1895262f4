#include "daemon/socket_path.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <stdexcept>

#include "base/error.h"
#include "base/log.h"
#include "base/trusted_path.h"
#include "daemon/acting_as.h"

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

// A socket, and in a sticky folder one of our own.
FileId socket_in(const Reached& at) {
  struct stat s {};
  if (fstatat(at.folder.get(), at.name.c_str(), &s, AT_SYMLINK_NOFOLLOW) < 0) return {};
  if (!S_ISSOCK(s.st_mode) || (at.is_shared && s.st_uid != geteuid())) return {};
  return {s.st_dev, s.st_ino};
}

// Whether nobody listens on a Unix socket that lies at this path: left behind by a crash.
bool is_stale(const SocketAddress& address) {
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // Whoever does listen there leaves nothing in it that its end would have to wait for (daemon/close_apart.h).
  return probe.is_open() && shutdown(probe.get(), SHUT_RD) == 0 &&
         connect(probe.get(), address.get(), address.length) < 0 && errno == ECONNREFUSED;
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

// By a step that was late.
FileId made_before(const std::string& verb, const Reached& at) {
  const FileId found = socket_in(at);
  if (!found.inode) throw std::runtime_error(verb + ": it was bound, and its file is gone");
  return found;
}

FileId bind_at(const std::string& path, const EffectiveUser& user, int socket,
               const SocketAddress& address) {
  const std::string verb = "bind " + to_string(address);
  if (fchmod(socket, 0666) < 0) throw SysError("fchmod socket for " + to_string(address), errno);
  Reached at = reach(verb, path, user);
  if (is_bound_to(socket, address)) return made_before(verb, at);
  int error = bind_for_all(socket, address);
  if (error == EADDRINUSE) {
    const FileId found = socket_in(at);
    if (found.inode && is_stale(address) && found == socket_in(at) &&
        unlinkat(at.folder.get(), at.name.c_str(), 0) == 0)
      error = bind_for_all(socket, address);
  }
  if (error) throw SysError(verb + at.as_whom, error);
  return socket_in(at);
}

void remove_at(const std::string& verb, const std::string& path, const EffectiveUser& user,
               const FileId& file) {
  const Reached at = reach(verb, path, user);
  if (socket_in(at) == file && unlinkat(at.folder.get(), at.name.c_str(), 0) < 0 && errno != ENOENT)
    throw SysError(verb + at.as_whom, errno);
}

}  // namespace

FileId SocketPath::find() const {
  const std::string verb = "find unix:" + path_;
  return in_file_system(verb, folder_of(path_), -1,
                        [&] { return socket_in(reach(verb, path_, user_)); });
}

void SocketPath::bind(int socket, const SocketAddress& address) {
  file_ = in_file_system("bind " + to_string(address), folder_of(path_), socket,
                         [&] { return bind_at(path_, user_, socket, address); });
}

bool SocketPath::recognise() {
  try {
    file_ = find();
    return is_ours();
  } catch (const NoAnswer& e) {
    log_warning(e.what());
    return true;
  } catch (const std::exception& e) {
    log_warning(e.what());
    return false;
  }
}

bool SocketPath::is_there() const noexcept {
  try {
    return find() == file_;
  } catch (const SysError& e) {
    return e.error() != ENOENT;
  } catch (const std::exception&) {
    return true;
  }
}

void SocketPath::remove() noexcept {
  if (!is_ours()) return;
  const std::string verb = "remove unix:" + path_;
  try {
    in_file_system(verb, folder_of(path_), -1, [&] {
      remove_at(verb, path_, user_, file_);
      return FileId{};
    });
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
