#include "daemon/listener.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <stdexcept>

#include "base/error.h"
#include "base/resolve.h"

namespace preforkd {
namespace {

// Whether nobody listens on a Unix socket that lies at this path: left behind by a crash.
bool is_stale(const SocketAddress& address) {
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe.is_open() && connect(probe.get(), address.get(), address.length) < 0 &&
         errno == ECONNREFUSED;
}

bool is_socket(const std::string& path) {
  struct stat s {};
  return lstat(path.c_str(), &s) == 0 && S_ISSOCK(s.st_mode);
}

void bind_or_throw(int fd, const SocketAddress& address, const ListenAddress& wanted) {
  const std::string verb = "bind " + to_string(address);
  if (bind(fd, address.get(), address.length) == 0) return;
  int error = errno;
  bool on_disk = wanted.kind == ListenAddress::Kind::kUnix && wanted.path.front() == '/';
  if (error == EADDRINUSE && on_disk && is_socket(wanted.path) && is_stale(address)) {
    unlink(wanted.path.c_str());
    if (bind(fd, address.get(), address.length) == 0) return;
    error = errno;
  }
  throw SysError(verb, error);
}

struct Option {
  const char* key;
  int level, name;
  int (*value)(const TcpOptions&);
};
// Accepted sockets inherit the first three. Of reuse_port see Listener::open.
constexpr Option kOptions[] = {
    {"nodelay", IPPROTO_TCP, TCP_NODELAY, [](const TcpOptions& o) { return int{o.nodelay}; }},
    {"keepalive", IPPROTO_TCP, TCP_KEEPIDLE,
     [](const TcpOptions& o) { return static_cast<int>(o.keepalive); }},
    {"keepalive", SOL_SOCKET, SO_KEEPALIVE,
     [](const TcpOptions& o) { return int{o.keepalive > 0}; }},
    {"defer_accept", IPPROTO_TCP, TCP_DEFER_ACCEPT,
     [](const TcpOptions& o) { return static_cast<int>(o.defer_accept); }},
    {"fast_open", IPPROTO_TCP, TCP_FASTOPEN,
     [](const TcpOptions& o) { return static_cast<int>(o.fast_open); }},
};

// Those that are not as they were. What a kernel does not have, it has switched off.
void set_tcp_options(int fd, const std::string& address, const std::optional<TcpOptions>& was,
                     const TcpOptions& wanted) {
  for (const Option& option : kOptions) {
    const int value = option.value(wanted);
    if (was && option.value(*was) == value) continue;
    if (setsockopt(fd, option.level, option.name, &value, sizeof value) < 0 && value != 0)
      throw SysError(std::string("set tcp.") + option.key + " of " + address, errno);
  }
}

}  // namespace

Listener::Listener(UniqueFd fd, bool inherited) : fd_(std::move(fd)), inherited_(inherited) {
  SocketAddress bound;
  bound.length = sizeof bound.storage;
  struct stat s {};
  if (getsockname(fd_.get(), bound.get(), &bound.length) < 0) throw SysError("getsockname", errno);
  if (fstat(fd_.get(), &s) < 0) throw SysError("fstat listen socket", errno);
  address_ = to_string(bound);
  inode_ = s.st_ino;
}

Listener::~Listener() {
  if (fd_.is_open() && stored_as_.empty()) remove_path();
}

void Listener::note_path(const std::string& path) {
  struct stat s {};
  if (lstat(path.c_str(), &s) < 0) return;
  unlink_path_ = path;
  unlink_inode_ = s.st_ino;
}

// Only if it is still ours: somebody may have put another one there.
void Listener::remove_path() {
  struct stat s {};
  if (!unlink_path_.empty() && lstat(unlink_path_.c_str(), &s) == 0 && s.st_ino == unlink_inode_)
    unlink(unlink_path_.c_str());
  unlink_path_.clear();
}

Listener Listener::open(const ListenAddress& wanted, int backlog, const TcpOptions& options) {
  SocketAddress address = resolve(wanted);
  const std::string text = to_string(address);
  const int family = address.storage.ss_family;
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.is_open()) throw SysError("socket for " + text, errno);
  int on = 1;
  // So that a restart need not wait for the connections of before in TIME_WAIT.
  if (family != AF_UNIX) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // "[::]:80" and "0.0.0.0:80" are two addresses, whatever net.ipv6.bindv6only says.
  if (family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (family != AF_UNIX) {
    if (options.reuse_port && setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0)
      throw SysError("set tcp.reuse_port of " + text, errno);
    set_tcp_options(fd.get(), text, TcpOptions{}, options);
  }
  bind_or_throw(fd.get(), address, wanted);
  const bool on_disk = family == AF_UNIX && wanted.path.front() == '/';
  if (on_disk && chmod(wanted.path.c_str(), 0666) < 0) throw SysError("chmod " + text, errno);
  if (listen(fd.get(), backlog) < 0) throw SysError("listen " + text, errno);
  Listener listener(std::move(fd), false);
  listener.options_ = options;
  if (on_disk) listener.note_path(wanted.path);
  return listener;
}

Listener Listener::adopt(UniqueFd fd, const std::string& name) {
  int listening = 0, type = 0;
  socklen_t size = sizeof listening;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || !listening ||
      getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
    throw std::runtime_error("systemd:" + name + ": not a listening stream socket");
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  Listener listener(std::move(fd), true);
  listener.options_ = TcpOptions{};
  return listener;
}

Listener Listener::recover(UniqueFd fd, const std::string& stored_as, const std::string& wanted) {
  Listener listener = adopt(std::move(fd), wanted);
  listener.inherited_ = false;
  listener.options_.reset();
  listener.stored_as_ = stored_as;
  listener.wanted_ = wanted;
  const std::string on_disk = "unix:/";
  if (listener.address_.starts_with(on_disk))
    listener.note_path(listener.address_.substr(on_disk.size() - 1));
  if (listener.address_.starts_with(on_disk) && listener.unlink_path_.empty())
    throw std::runtime_error(listener.address_ + ": its path is gone");
  return listener;
}

ListenerRecord Listener::record() const {
  return {fd_.get(), wanted_, stored_as_, unlink_path_, inherited_};
}

Listener Listener::restore(const ListenerRecord& record) {
  Listener listener(UniqueFd(record.fd), record.inherited);
  listener.wanted_ = record.wanted;
  listener.stored_as_ = record.stored_as;
  if (!record.path.empty()) listener.note_path(record.path);
  return listener;
}

void Listener::close_the_door() {
  if (outlives_us()) return;
  remove_path();
  if (address_.starts_with("unix:")) {
    listen(fd_.get(), 0);  // an abstract name cannot be removed: at most one more gets past
    return;
  }
  // Byte 13 of a TCP header has the flags: drop what has SYN without ACK. Connections inherit the filter,
  // which does nothing to them. (No smaller backlog: it would drop the last step of handshakes under way,
  // whose clients believe that they are connected.)
  sock_filter drop_syn[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, ~0u),
  };
  sock_fprog program{std::size(drop_syn), drop_syn};
  setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

void Listener::give_up() {
  if (!outlives_us()) shutdown(fd_.get(), SHUT_RDWR);
}

void Listener::set_backlog(int backlog) {
  if (!inherited_) listen(fd_.get(), backlog);
}

void Listener::set_options(const TcpOptions& wanted) {
  if (!address_.starts_with("unix:")) set_tcp_options(fd_.get(), address_, options_, wanted);
  options_ = wanted;
}

bool Listener::cannot_have(const TcpOptions& wanted) const {
  int reuse_port = 0;
  socklen_t size = sizeof reuse_port;
  return !inherited_ && !address_.starts_with("unix:") &&
         getsockopt(fd_.get(), SOL_SOCKET, SO_REUSEPORT, &reuse_port, &size) == 0 &&
         (reuse_port != 0) != wanted.reuse_port;
}

bool contains(const Listeners& listeners, const std::shared_ptr<Listener>& one) {
  return std::find(listeners.begin(), listeners.end(), one) != listeners.end();
}

namespace {

// Takes out of `free` those that an entry of `listen` means already: by its text among the pool's own (where
// "127.0.0.1:0" has long been some port), by its address anywhere. One whose address is an entry of any pool is
// left to that. Of systemd's several may share a name.
Listeners take_known(const std::string& text, bool from_systemd,
                     const std::vector<PoolSettings>& pools, const Listeners& own,
                     Listeners& free) {
  auto is_entry = [&](const std::string& address) {
    return std::any_of(pools.begin(), pools.end(), [&](const PoolSettings& pool) {
      return std::find(pool.listen.begin(), pool.listen.end(), address) != pool.listen.end();
    });
  };
  auto is_meant = [&](const Listener& listener, bool is_own) {
    if (listener.address() == text) return true;
    return (is_own || from_systemd) && listener.wanted() == text && !is_entry(listener.address());
  };
  Listeners found;
  for (const bool is_own : {true, false})
    if (found.empty())
      std::copy_if(free.begin(), free.end(), std::back_inserter(found), [&](const auto& listener) {
        return contains(own, listener) == is_own && is_meant(*listener, is_own);
      });
  if (!from_systemd && found.size() > 1) found.resize(1);
  std::erase_if(free, [&](const auto& listener) { return contains(found, listener); });
  return found;
}

}  // namespace

Listeners open_listeners(const PoolSettings& pool, const std::vector<PoolSettings>& pools,
                         const Listeners& own, Listeners& free,
                         std::vector<InheritedSocket>& inherited,
                         std::vector<std::string>& errors) {
  Listeners listeners;
  auto add = [&](Listener listener, const std::string& wanted) {
    listener.set_options(pool.tcp);
    listener.opened_for(wanted);
    listeners.push_back(std::make_shared<Listener>(std::move(listener)));
  };
  for (const std::string& text : pool.listen) {
    try {
      std::string error;
      auto address = parse_listen_address(text, error);
      if (!address) throw std::runtime_error(text + ": " + error);
      const bool from_systemd = address->kind == ListenAddress::Kind::kSystemd;
      const size_t before = listeners.size();
      for (auto& listener : take_known(text, from_systemd, pools, own, free))
        listeners.push_back(std::move(listener));
      if (listeners.size() > before) continue;
      if (!from_systemd) {
        add(Listener::open(*address, static_cast<int>(pool.backlog), pool.tcp), text);
        continue;
      }
      for (auto& socket : inherited)
        if (socket.name == address->path && socket.fd.is_open())
          add(Listener::adopt(std::move(socket.fd), socket.name), text);
      if (listeners.size() == before)
        throw std::runtime_error("listen " + text + ": systemd passed no socket of that name");
    } catch (const std::exception& e) {
      errors.emplace_back(e.what());
    }
  }
  return listeners;
}

}  // namespace preforkd
