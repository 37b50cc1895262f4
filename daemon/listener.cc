#include "daemon/listener.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "daemon/close_apart.h"
#include "daemon/resolve.h"

namespace preforkd {
namespace {

constexpr int kTries = 100;  // against one who makes the socket before listen again and again

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
    // (Of IPv6, too.)
    {"freebind", IPPROTO_IP, IP_FREEBIND, [](const TcpOptions& o) { return int{o.freebind}; }},
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

// A TCP socket that listened, and was shut down or connected by whoever has a copy, can be as it was when it was bound:
// it still is, or, of a port that nobody asked for, is again.
bool bind_again(int fd, const SocketAddress& address) {
  const sockaddr nowhere{AF_UNSPEC, {}};
  connect(fd, &nowhere, sizeof nowhere);
  return bind(fd, address.get(), address.length) == 0 || errno == EINVAL;
}

UniqueFd open_socket(int family, const std::string& address) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.is_open()) throw SysError("socket for " + address, errno);
  return fd;
}

ino_t inode_of(int socket) {
  struct stat s {};
  if (fstat(socket, &s) < 0) throw SysError("fstat listen socket", errno);
  return s.st_ino;
}

bool can_listen_again(int fd) {
  const SocketAddress address = bound_address(fd);
  if (address.storage.ss_family == AF_UNIX) return false;
  const bool has_port = reinterpret_cast<const sockaddr_in*>(address.get())->sin_port != 0;
  return has_port && bind_again(fd, address);
}

}  // namespace

SocketAddress bound_address(int socket) {
  SocketAddress bound = local_address(socket);
  if (bound.length == 0) throw SysError("getsockname", errno);
  return bound;
}

bool takes_clients(int socket) {
  int listens = 0;
  socklen_t size = sizeof listens;
  pollfd shut{socket, POLLRDHUP, 0};
  return getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens &&
         poll(&shut, 1, 0) != 1;  // (without memory to ask, it is as it was)
}

Listener::Listener(UniqueFd fd, bool inherited)
    : fd_(std::move(fd)), inherited_(inherited), inode_(inode_of(fd_.get())) {
  note_address();
}

void Listener::note_address() { address_ = to_string(bound_address(fd_.get())); }

Listener::~Listener() {
  if (fd_.is_open() && stored_as_.empty()) path_.remove();
  if (address_.starts_with("unix:")) close_apart(std::move(fd_));
}

Listener Listener::open(const ListenAddress& wanted, int backlog, const EffectiveUser& user,
                        const TcpOptions& options) {
  Listener listener = prepare(wanted, user, options);
  listener.start_listening(backlog);
  return listener;
}

Listener Listener::prepare(const ListenAddress& wanted, const EffectiveUser& user,
                           const TcpOptions& options) {
  SocketAddress address = resolve(wanted);
  const std::string text = to_string(address);
  const int family = address.storage.ss_family;
  UniqueFd fd = open_socket(family, text);
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
  Listener listener(std::move(fd), false);
  listener.address_ = text;
  listener.uid_ = user.uid;
  listener.to_bind_ = address;
  listener.is_bound_ = false;
  if (family == AF_UNIX && wanted.path.front() == '/')
    listener.path_ = SocketPath(wanted.path, user);
  listener.options_ = options;
  return listener;
}

// With SO_REUSEPORT, now or before, whoever has a copy of the old one could make it listen again, beside the new one.
Listener Listener::prepare_instead_of(const std::shared_ptr<Listener>& before,
                                      const EffectiveUser& user, const TcpOptions& options) {
  const std::string& text = before->address();
  const std::string cannot = "listen " + text + ": processes of the user with uid " +
                             std::to_string(before->uid()) + " have its socket, and ";
  if (before->inherited_)
    throw std::runtime_error(
        cannot + "systemd's cannot be made anew for user " + user.name +
        ": leave it to that user, or restart preforkd, which ends all of them before");
  if (!text.starts_with("unix:") && (options.reuse_port || before->has_reuse_port()))
    throw std::runtime_error(
        cannot + "with tcp.reuse_port they could go on listening beside user " + user.name +
        ": leave it to that user, or stop preforkd and start it again");
  std::string error;
  const auto address = parse_listen_address(text, error);
  if (!address) throw std::runtime_error("listen " + text + ": " + error);
  Listener listener = prepare(*address, user, options);
  listener.before_ = before->is_bound_ ? Listeners{before} : before->before_;
  return listener;
}

bool overlap(const std::string& one, const std::string& other) {
  std::string ignored;
  const auto ours = parse_listen_address(one, ignored),
             theirs = parse_listen_address(other, ignored);
  const auto is_tcp = [](const auto& a) { return a && a->kind == ListenAddress::Kind::kTcp; };
  if (!is_tcp(ours) || !is_tcp(theirs) || ours->port != theirs->port) return false;
  const auto is_of_ipv6 = [](const ListenAddress& a) { return a.host.find(':') != a.host.npos; };
  const auto is_any = [](const ListenAddress& a) { return a.host == "0.0.0.0" || a.host == "::"; };
  if (is_of_ipv6(*ours) != is_of_ipv6(*theirs)) return false;  // see prepare()
  return is_any(*ours) || is_any(*theirs) || ours->host == theirs->host;
}

// Bound at once where both can be there: what is in the way of that is known before anything has changed then.
void Listener::follow(const Listeners& overlapping) {
  for (const auto& one : overlapping)
    if (one->uid_ != uid_ && (one->has_reuse_port() || (options_ && options_->reuse_port)))
      throw std::runtime_error(
          "listen " + address_ + ": processes of the user with uid " + std::to_string(one->uid_) +
          " have the socket of " + one->address_ +
          ", and with tcp.reuse_port they could go on listening beside: stop preforkd and start it"
          " again");
  before_.insert(before_.end(), overlapping.begin(), overlapping.end());
  if (!may_listen()) return;
  share_port(true);
  const int error = bind_socket();
  share_port(false);
  if (error) throw SysError("bind " + address_, error);
}

bool Listener::coexists_with(const Listener& before) const {
  return has_path() ? before.door_is_closed_ : is_tcp() && before.uid_ == uid_;
}

// The kernel lets two of one user listen on overlapping addresses while both say that they share.
void Listener::share_port(bool on) const {
  const auto say = [on](const Listener& one) {
    if (on && one.has_reuse_port()) return;
    if (!on && one.options_ && one.options_->reuse_port) return;
    const int value = on;
    setsockopt(one.fd(), SOL_SOCKET, SO_REUSEPORT, &value, sizeof value);
  };
  for (const auto& one : before_)
    if (coexists_with(*one)) say(*one);
  say(*this);
}

// 0 or an errno.
int Listener::bind_socket() {
  int error = 0;
  if (!is_bound_ && has_path()) {
    const bool was_bound = to_string(local_address(fd())) == to_string(to_bind_);
    if (was_bound && path_.has_lost(fd())) take_another_socket();
    path_.bind(fd(), to_bind_);
  } else if (!is_bound_ && bind(fd(), to_bind_.get(), to_bind_.length) < 0) {
    error = errno;
  } else if (is_bound_ && is_tcp() && !bind_again(fd(), to_bind_)) {
    error = errno;
  }
  is_bound_ = error == 0;
  return error;
}

// One that was bound by a step that could not say so, and whose file is gone since, can be bound to nothing any more.
void Listener::take_another_socket() {
  UniqueFd another = open_socket(AF_UNIX, address_);
  inode_ = inode_of(another.get());
  close_apart(std::exchange(fd_, std::move(another)));
}

void Listener::start_listening(int backlog) {
  const bool shares = is_tcp() && std::any_of(before_.begin(), before_.end(),
                                              [this](auto& one) { return coexists_with(*one); });
  for (int tries = before_.empty() ? 1 : kTries; !is_listening(); --tries) {
    for (const auto& one : before_)
      if (!is_tcp() || !coexists_with(*one)) one->make_way();
    // A name that has no file is free when the last copy of its socket is closed: ours must not be that.
    if (!has_path() && !is_tcp()) before_.clear();
    std::string verb = "bind ";
    if (shares) share_port(true);
    int error = bind_socket();
    if (is_bound_ && listen(fd(), backlog) < 0) {
      verb = "listen ";
      error = errno;
    }
    if (shares) share_port(false);
    if (error == 0)
      to_bind_.length = 0;
    else if (error != EADDRINUSE || tries <= 1)
      throw SysError(verb + address_, error);
  }
  before_.clear();
  note_address();
}

// Two sockets can have a path one after the other, and both their clients.
void Listener::make_way() {
  close_the_door();
  if (has_path() || outlives_us()) return;
  has_given_up_ = true;
  refuse();
}

// Whoever has a copy may have switched SO_REUSEADDR off: then nobody could have the address before the last copy is
// closed.
void Listener::refuse() {
  const int on = 1;
  setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  shutdown(fd_.get(), SHUT_RDWR);
}

bool Listener::may_listen() const {
  return std::all_of(before_.begin(), before_.end(),
                     [this](const auto& one) { return one->has_given_up_ || coexists_with(*one); });
}

Listener Listener::adopt(UniqueFd fd, const std::string& name) {
  int listening = 0, type = 0;
  socklen_t size = sizeof listening;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 ||
      getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM ||
      (!listening && !can_listen_again(fd.get())))
    throw std::runtime_error("systemd:" + name + ": not a listening stream socket");
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  Listener listener(std::move(fd), true);
  if (!listening) listener.to_bind_ = bound_address(listener.fd());
  listener.options_ = TcpOptions{};
  return listener;
}

Listener Listener::recover(UniqueFd fd, const std::string& stored_as, const std::string& wanted,
                           const EffectiveUser& user) {
  Listener listener = adopt(std::move(fd), wanted);
  listener.inherited_ = false;
  listener.options_.reset();
  listener.stored_as_ = stored_as;
  listener.wanted_ = wanted;
  const std::string on_disk = "unix:/";
  if (listener.address_.starts_with("unix:") && !takes_clients(listener.fd()))
    throw std::runtime_error(listener.address_ + ": it was shut down");
  if (listener.address_.starts_with(on_disk)) {
    listener.path_ = SocketPath(listener.address_.substr(on_disk.size() - 1), user);
    if (!listener.path_.recognise(listener.fd()))
      throw std::runtime_error(listener.address_ + ": its path is gone, or another's");
  }
  return listener;
}

namespace {

uint32_t scope_of(const SocketAddress& address) {
  if (address.length == 0 || address.storage.ss_family != AF_INET6) return 0;
  return reinterpret_cast<const sockaddr_in6*>(address.get())->sin6_scope_id;
}

}  // namespace

ListenerRecord Listener::record() const {
  return {fd_.get(),
          wanted_,
          stored_as_,
          path_.record(),
          inherited_,
          uid_,
          is_listening() ? "" : address_,
          is_bound_,
          scope_of(to_bind_)};
}

Listener Listener::restore(const ListenerRecord& record) {
  Listener listener(UniqueFd(record.fd), record.inherited);
  listener.wanted_ = record.wanted;
  listener.stored_as_ = record.stored_as;
  listener.path_ = SocketPath(record.path);
  listener.uid_ = record.uid;
  if (record.awaited.empty()) return listener;
  std::string error;
  const auto awaited = parse_listen_address(record.awaited, error);
  if (!awaited) throw std::runtime_error("listen " + record.awaited + ": " + error);
  listener.to_bind_ = resolve(*awaited);
  if (record.scope)
    reinterpret_cast<sockaddr_in6*>(&listener.to_bind_.storage)->sin6_scope_id = record.scope;
  listener.is_bound_ = record.bound;
  listener.address_ = record.awaited;
  return listener;
}

void Listener::close_the_door() {
  if (outlives_us() || !is_listening()) return;
  const bool is_first = !std::exchange(door_is_closed_, true);
  path_.remove();
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
  if (setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 && is_first)
    log_warning("close the door of " + address_ + ": " + std::strerror(errno) +
                ": who connects from now on may not be served");
}

void Listener::give_up() {
  if (outlives_us()) return;
  has_given_up_ = true;
  if (!is_listening()) {  // it never will: nothing is kept for it any more
    for (const auto& one : before_)
      if (one->has_given_up_) one->give_up();
    return;
  }
  const bool is_awaited = std::any_of(next_.begin(), next_.end(), [](const auto& weak) {
    const auto next = weak.lock();
    return next && !next->is_listening() && !next->has_given_up_;
  });
  if (!is_awaited) refuse();
}

void Listener::set_backlog(int backlog) {
  if (!inherited_ && is_listening()) listen(fd_.get(), backlog);
}

void Listener::set_options(const TcpOptions& wanted) {
  if (!address_.starts_with("unix:")) set_tcp_options(fd_.get(), address_, options_, wanted);
  options_ = wanted;
}

bool Listener::has_reuse_port() const {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd(), SOL_SOCKET, SO_REUSEPORT, &value, &size) == 0 && value != 0;
}

bool Listener::cannot_have(const TcpOptions& wanted) const {
  return !inherited_ && !address_.starts_with("unix:") && has_reuse_port() != wanted.reuse_port;
}

bool contains(const Listeners& listeners, const std::shared_ptr<Listener>& one) {
  return std::find(listeners.begin(), listeners.end(), one) != listeners.end();
}

}  // namespace preforkd
