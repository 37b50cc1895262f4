// A listen socket of a pool: made by the daemon, or inherited from systemd. Supervisors and workers get
// copies of the descriptor and never this object.
//
// Processes of its pool's user have had it, and may have left one behind that accepts for ever. So it is for one user:
// an address that another user's pool gets is listened on anew (daemon/moves.h). The new socket is prepared first, and
// handed to the processes that will accept; it listens when the one before it has made way. So is that of a path whose
// file is gone, or another's: a socket that is bound stays bound. And one whose address overlaps with one that is
// given up ("0.0.0.0:80", "10.0.0.1:80"), of which there may be several before it: of the same user both can be there.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/fd.h"
#include "conf/load.h"
#include "daemon/socket_path.h"
#include "daemon/takeover.h"
#include "systemd/inherited.h"

namespace preforkd {

class Listener;
// Shared: while one generation takes over from another, or one pool takes an address over from another.
using Listeners = std::vector<std::shared_ptr<Listener>>;

class Listener {
 public:
  // Non-blocking, CLOEXEC, listening. Throws SysError "bind ADDRESS: reason". A stale Unix socket at the path
  // is replaced, one that somebody listens on is not; the new one may be connected to by everybody (0666),
  // as a TCP port may. `user` is the pool's, whose rights are used in folders that are not trusted (see
  // daemon/socket_path.h); {}: it is for the daemon itself. `options` are those of a TCP socket. A host is a
  // number: names were looked up before.
  static Listener open(const ListenAddress& address, int backlog, const EffectiveUser& user = {},
                       const TcpOptions& options = {});
  // The same with all but the last steps, bind and listen: start_listening() makes them.
  static Listener prepare(const ListenAddress& address, const EffectiveUser& user = {},
                          const TcpOptions& options = {});
  // One for another user, or with a new file, with the address that `before` has in force. Throws std::runtime_error:
  // there can be none.
  static Listener prepare_instead_of(const std::shared_ptr<Listener>& before,
                                     const EffectiveUser& user, const TcpOptions& options);
  // Of one that was prepared: these have addresses that overlap with its own, and are given up. Those of the same user it is
  // bound beside at once, and need not wait for. Throws as prepare_instead_of(), or SysError "bind ADDRESS: reason".
  void follow(const Listeners& overlapping);
  // One that systemd passed. Where a process that had it shut it down, it is bound still, and start_listening() makes it
  // listen again. Throws std::runtime_error if it is no listening stream socket, and never was one.
  static Listener adopt(UniqueFd fd, const std::string& name);
  // One of our own that a daemon before us left in systemd's store, opened for this entry of `listen`. `user` is the
  // pool's now, with whose rights its path is removed; whose it is, is_of() tells.
  static Listener recover(UniqueFd fd, const std::string& stored_as, const std::string& wanted,
                          const EffectiveUser& user = {});

  // Over an upgrade in place: what to write down, and the same socket from that.
  ListenerRecord record() const;
  static Listener restore(const ListenerRecord& record);

  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) noexcept = default;
  ~Listener();

  int fd() const { return fd_.get(); }
  // For a socket that lives otherwise (control's): the descriptor, and what is to be removed when it is closed. This
  // removes nothing any more.
  UniqueFd release_fd() { return std::move(fd_); }
  const SocketPath& path() const { return path_; }
  const std::string& address() const { return address_; }  // in force: with the real port
  // The entry of `listen` that it was opened for, as written: a reload finds it again by that.
  const std::string& wanted() const { return wanted_; }
  void opened_for(const std::string& wanted) { wanted_ = wanted; }
  // Whose processes get it, or got it.
  uid_t uid() const { return uid_; }
  void is_of(uid_t uid) { uid_ = uid; }

  // Binds and listens. What it was prepared instead of makes way first, by force if it must: see close_the_door() and
  // give_up(), and whoever has a copy of that may make it listen again meanwhile, but not for long. Throws SysError
  // "bind ADDRESS: reason"; then it may be tried again. The one before must be out of systemd's store.
  void start_listening(int backlog);
  bool is_listening() const { return to_bind_.length == 0; }
  // What it was prepared instead of, until it listens.
  const Listeners& before() const { return before_; }
  void is_followed_by(const std::shared_ptr<Listener>& next) { next_.push_back(next); }
  // Whether nobody is cut off by it: those before have given up, or can coexist with it.
  bool may_listen() const;
  // Of a Unix socket: whether clients who connect to its path come to it, as far as can be known just now.
  bool has_its_file() const { return knows_its_file().value_or(true); }
  std::optional<bool> knows_its_file() const {  // nothing: it cannot be known just now
    return has_path() && is_listening() ? path_.is_there() : std::optional(true);
  }
  // If it has it no more: what is there, which is not to be touched, or why it could not be made; "": it could.
  std::string in_the_way() const { return path_.in_the_way(); }
  // From now on `inotify` tells when that file is not what it was, under the number that this returns; -1: it cannot, and
  // why is logged. `is_there`: whether it was what it was then.
  int watch_file(int inotify, bool& is_there) const { return path_.watch(inotify, is_there); }
  bool has_path() const { return !path_.path().empty(); }
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
  // Stopping, step 2: refuses from now on, whoever still holds a copy. One that another is to follow does that in the
  // moment before that one listens.
  void give_up();

 private:
  Listener(UniqueFd fd, bool inherited);
  void note_address();
  void make_way();
  void refuse();
  bool has_reuse_port() const;
  bool is_tcp() const { return !address_.starts_with("unix:"); }
  bool coexists_with(const Listener& before) const;
  void share_port(bool on) const;
  int bind_socket();
  void take_another_socket();

  UniqueFd fd_;
  bool inherited_ = false;
  std::string stored_as_;
  std::string address_, wanted_;
  uid_t uid_ = 0;
  SocketAddress to_bind_;  // of length 0: it listens
  bool is_bound_ = true, door_is_closed_ = false, has_given_up_ = false;
  Listeners before_;
  std::vector<std::weak_ptr<Listener>> next_;
  SocketPath path_;                    // of a Unix socket that is removed with it
  std::optional<TcpOptions> options_;  // that we have set; nothing: not known
  ino_t inode_ = 0;
};

bool contains(const Listeners& listeners, const std::shared_ptr<Listener>& one);

// Whether two addresses of TCP, with numbers, cannot both be bound.
bool overlap(const std::string& one, const std::string& other);

// What is at hand when the listeners of a configuration's pools are opened. `free` has those of the pools that there are
// (or were stored), `inherited` systemd's; both lose the ones that are taken: no two entries get the same.
struct Opening {
  const std::vector<PoolSettings>& pools;
  const HostNames& names;
  Listeners& free;
  std::vector<InheritedSocket>& inherited;
  std::vector<std::string>& errors;  // what failed is added, one complete message each
  std::string recycled = "";         // this pool alone is made anew; "": all are
  Listeners without_file{};  // those are added that stay as they are, as something is in the way
};

// What a socket is bound to. Throws SysError: it is none.
SocketAddress bound_address(int socket);

// Whether clients can connect to it. One that somebody with a copy has shut down: of TCP it does not listen any more, of
// Unix it says that it does, and refuses for ever.
bool takes_clients(int socket);

// All listeners of the `listen` of one of the pools: those that there are already, as they are, and new ones for the
// rest, which do not listen yet. It may take over its `own` ones among the free, and those of other pools. Instead of
// one that another user's processes have had, or whose file is gone, there is a new one with its address. Of a host that is
// a name there is one for each of its addresses.
Listeners open_listeners(const PoolSettings& pool, const EffectiveUser& user, const Listeners& own,
                         Opening& opening);

// When the listeners of all pools are known: those that were `before`, and are in nobody's `plans` any more, make way for
// new ones that they overlap with.
void follow_dropped(const std::vector<const Listeners*>& plans, const Listeners& before,
                    std::vector<std::string>& errors);

// Makes those of them listen that are not among the ones `before`, and have none of another user's to wait for (these
// move: daemon/moves.h). Adds to `errors` what failed, but for what is `given_up`, an address of our own, by then.
void listen_on_new(const Listeners& listeners, const Listeners& before, int backlog,
                   const std::string& given_up, std::vector<std::string>& errors);

// The same address with the numbers of a host that is a name. Throws std::runtime_error "resolve HOST: reason".
std::vector<ListenAddress> with_numbers(const ListenAddress& address, const HostNames& names);

// One that listens beside the socket `before`, which is to be given up, where their addresses overlap: for control.web.
UniqueFd open_beside(int before, const ListenAddress& address, int backlog);

inline constexpr size_t kMostSockets =
    64;  // of a pool, whose names may have several addresses each

}  // namespace preforkd
