// The file of a Unix socket that the daemon listens on: how it is made, known again, and removed, in folders that
// others may own. Where all its folders are trusted (daemon/trusted_path.h), as the daemon's user. Elsewhere each step
// is done with the rights of the pool's user (daemon/acting_as.h), so that links and folders which are exchanged
// under it lead nowhere but where that user could go alone; where there is no such user, root refuses.
//
// The folder is held open from the look at the file until its removal: what is removed is a socket, in the folder and
// with the inode that it was made with, which is no other file's as long as the socket is open. A SIGKILL of the daemon leaves the file; the next one finds that nobody listens
// on it, and replaces it. A file system that hangs is not waited for: each step is a child's (daemon/file_step.h).
#pragma once

#include <optional>
#include <string>

#include "base/address.h"
#include "conf/user.h"
#include "daemon/file_step.h"
#include "daemon/takeover.h"

namespace preforkd {

class SocketPath {
 public:
  SocketPath() = default;  // none
  SocketPath(std::string path, EffectiveUser user)
      : path_(std::move(path)), user_(std::move(user)) {}

  // Binds, open to everybody (0666, as a TCP port is); the socket is bound by its whole path, which getsockname(2)
  // tells. A socket that nobody listens on any more is replaced. Throws SysError, std::runtime_error "bind
  // unix:PATH: reason".
  void bind(int socket, const SocketAddress& address);
  // What lies there now is ours, from a daemon before us, if it is this socket's. False if it is another, or there is no
  // socket, or no way to it. (True if its file system does not answer: then nothing is ever removed.)
  bool recognise(int socket);
  // Whether what lies there, if anything, is certainly not this socket, which is bound to the path: nobody will ever come to
  // it. False if it cannot be known just now.
  bool has_lost(int socket) const noexcept;
  // Whether what lies there is still the socket that was made, or recognised; nothing: it cannot be known just now.
  std::optional<bool> is_there() const noexcept;
  // Where it is not: why it could not be bound again, what a stranger has there in the first place; "": it could.
  std::string in_the_way() const noexcept;
  // A watch of the file itself, not of its folder, where much may happen that is none of ours: `inotify` tells of its
  // removal, of another in its place, of a change of its mode. What links to a folder above mean it does not tell.
  // Returns the watch's number; -1: there is none, and why is logged. `is_there`: what lies there is ours.
  int watch(int inotify, bool& is_there) const noexcept;
  // Unless another lies there by now. Logs why it could not, and can be tried again if there was no answer.
  void remove() noexcept;
  void forget() { file_ = {}; }  // it is not to be removed any more

  const std::string& path() const { return path_; }
  const EffectiveUser& user() const { return user_; }
  bool is_ours() const { return file_.inode != 0; }
  // Over an upgrade in place: what to write down, and the same from that.
  SocketPathRecord record() const { return {path_, user_, file_.device, file_.inode}; }
  explicit SocketPath(const SocketPathRecord& r)
      : path_(r.path), user_(r.user), file_{r.device, r.inode} {}

 private:
  FileId find() const;

  std::string path_;
  EffectiveUser user_{};
  FileId file_;  // none: nothing to remove
};

}  // namespace preforkd
