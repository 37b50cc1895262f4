// A listen socket of a pool: made by the daemon, or inherited from systemd. Supervisors and workers get
// copies of the descriptor and never this object.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/fd.h"
#include "conf/settings.h"
#include "daemon/takeover.h"
#include "systemd/inherited.h"

namespace preforkd {

class Listener {
 public:
  // Non-blocking, CLOEXEC, listening. Throws SysError "bind ADDRESS: reason". A stale Unix socket at the path
  // is replaced, one that somebody listens on is not; the new one may be connected to by everybody (0666),
  // as a TCP port may. `options` are those of a TCP socket.
  static Listener open(const ListenAddress& address, int backlog, const TcpOptions& options = {});
  // One that systemd passed. Throws std::runtime_error if it is no listening stream socket.
  static Listener adopt(UniqueFd fd, const std::string& name);
  // One of our own that a daemon before us left in systemd's store, opened for this entry of `listen`.
  static Listener recover(UniqueFd fd, const std::string& stored_as, const std::string& wanted);

  // Over an upgrade in place: what to write down, and the same socket from that.
  ListenerRecord record() const;
  static Listener restore(const ListenerRecord& record);

  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) noexcept = default;
  ~Listener();

  int fd() const { return fd_.get(); }
  // For a socket that lives otherwise (control's): the descriptor alone, nothing is removed any more.
  UniqueFd release_fd() {
    unlink_path_.clear();
    return std::move(fd_);
  }
  const std::string& address() const { return address_; }  // in force: with the real port
  // The entry of `listen` that it was opened for, as written: a reload finds it again by that.
  const std::string& wanted() const { return wanted_; }
  void opened_for(const std::string& wanted) { wanted_ = wanted; }
  void set_backlog(int backlog);  // from now on; of an inherited one it is systemd's matter
  // From now on, and without another socket: all but reuse_port, which a socket has from its bind on. Of an
  // inherited one those that were never asked for stay as systemd made them. Throws SysError "set tcp.KEY of
  // ADDRESS: reason".
  void set_options(const TcpOptions& wanted);
  // Those that set_options() has made before, in the image before an upgrade in place.
  void has_options(const TcpOptions& options) { options_ = options; }
  // Whether it is a TCP socket of our own that is bound otherwise.
  bool cannot_have(const TcpOptions& wanted) const;
  ino_t inode() const { return inode_; }
  // Inherited, or stored: somebody else has it, and neither step of stopping touches it.
  bool outlives_us() const { return inherited_ || !stored_as_.empty(); }
  bool is_inherited() const { return inherited_; }
  // Its name in systemd's store; "": it is not there.
  const std::string& stored_as() const { return stored_as_; }
  void set_stored_as(const std::string& name) { stored_as_ = name; }

  // Stopping, step 1: no new client gets in, and who waits in the queue stays there. (TCP: a filter drops
  // SYNs, which their senders repeat until step 2 refuses them. Unix: the path is removed. A queue that
  // still grew would be reset with step 2.)
  void close_the_door();
  // Stopping, step 2: refuses from now on, whoever still holds a copy.
  void give_up();

 private:
  Listener(UniqueFd fd, bool inherited);
  void note_path(const std::string& path);
  void remove_path();

  UniqueFd fd_;
  bool inherited_ = false;
  std::string stored_as_;
  std::string address_, wanted_;
  std::string unlink_path_;            // "" = nothing to remove
  std::optional<TcpOptions> options_;  // that we have set; nothing: not known
  ino_t unlink_inode_ = 0;
  ino_t inode_ = 0;
};

// Shared: while one generation takes over from another, or one pool takes an address over from another.
using Listeners = std::vector<std::shared_ptr<Listener>>;
bool contains(const Listeners& listeners, const std::shared_ptr<Listener>& one);

// All listeners of the `listen` of one of the pools: those that there are already, as they are, and new ones for
// the rest. `free` has the pool's `own` and those of other pools, which it may take over. `free` and `inherited`
// lose the ones that are taken: no two entries get the same. Adds what failed to `errors`, one complete message
// each.
Listeners open_listeners(const PoolSettings& pool, const std::vector<PoolSettings>& pools,
                         const Listeners& own, Listeners& free,
                         std::vector<InheritedSocket>& inherited, std::vector<std::string>& errors);

}  // namespace preforkd
