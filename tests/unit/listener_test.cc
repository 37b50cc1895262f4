// daemon/listener: opening listen sockets, what is said when that fails, and what is left behind.
#include "daemon/listener.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/backlog.h"
#include "daemon/resolve.h"
#include "daemon/socket_store.h"
#include "tests/unit/listener_test.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace preforkd::unit;

namespace {

std::string error_of_opening(const std::string& text) {
  try {
    Listener::open(parsed(text), 16);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "(no error)";
}

// Connects without waiting; the errno that refused it, 0 if it is connected or in the queue.
int connect_error(const std::string& text, UniqueFd* keep = nullptr) {
  SocketAddress address = resolve(parsed(text));
  UniqueFd client(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int error = connect(client.get(), address.get(), address.length) == 0 ? 0 : errno;
  if (keep) *keep = std::move(client);
  return error == EINPROGRESS ? 0 : error;
}

bool exists(const std::string& path) {
  struct stat s {};
  return lstat(path.c_str(), &s) == 0;
}

UniqueFd bound_but_not_listening(const std::string& path) {
  SocketAddress address = resolve(parsed("unix:" + path));
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CU_ASSERT_EQUAL_FATAL(bind(fd.get(), address.get(), address.length), 0);
  return fd;
}

void opens_on_any_port() {
  for (const char* text : {"127.0.0.1:0", "[::1]:0"}) {
    Listener listener = Listener::open(parsed(text), 16);
    CU_ASSERT(!listener.address().ends_with(":0"));
    CU_ASSERT(listener.inode() != 0);
    CU_ASSERT(fcntl(listener.fd(), F_GETFL) & O_NONBLOCK);
    CU_ASSERT(fcntl(listener.fd(), F_GETFD) & FD_CLOEXEC);
    CU_ASSERT_EQUAL(connect_error(listener.address()), 0);
    auto backlog = queued_on(listener.fd());
    CU_ASSERT(backlog && backlog->limit == 16);
  }
}

void in_use() {
  for (const char* text : {"127.0.0.1:0", "[::1]:0", "unix:@preforkd-unit-test-in-use"}) {
    Listener listener = Listener::open(parsed(text), 16);
    CU_ASSERT(unit::same_text(error_of_opening(listener.address()),
                              "bind " + listener.address() + ": Address already in use"));
  }
}

void both_families_on_one_port() {
  Listener v4 = Listener::open(parsed("*:0"), 16);
  std::string port = v4.address().substr(v4.address().rfind(':'));
  CU_ASSERT(unit::same_text(Listener::open(parsed("[::]" + port), 16).address(), "[::]" + port));
}

void says_why() {
  CU_ASSERT(unit::same_text(error_of_opening("unix:/nonexistent/folder/sock"),
                            "bind unix:/nonexistent/folder/sock: No such file or directory"));
  CU_ASSERT(unit::same_text(error_of_opening("192.0.2.1:7007"),
                            "bind 192.0.2.1:7007: Cannot assign requested address"));
}

void a_unix_socket() {
  unit::Folder folder;
  const std::string path = folder / "sock";
  {
    Listener listener = Listener::open(parsed("unix:" + path), 16);
    CU_ASSERT(unit::same_text(listener.address(), "unix:" + path));
    struct stat s {};
    CU_ASSERT_EQUAL_FATAL(lstat(path.c_str(), &s), 0);
    CU_ASSERT_EQUAL(s.st_mode & 0777, 0666);
    CU_ASSERT_EQUAL(connect_error("unix:" + path), 0);
    // Moved, it is one listener still.
    Listener moved = std::move(listener);
    CU_ASSERT_EQUAL(connect_error("unix:" + path), 0);
  }
  CU_ASSERT_FALSE(exists(path));
}

void a_stale_one_is_replaced() {
  unit::Folder folder;
  const std::string path = folder / "sock";
  bound_but_not_listening(path).reset();
  CU_ASSERT_TRUE(exists(path));
  Listener listener = Listener::open(parsed("unix:" + path), 16);
  CU_ASSERT_EQUAL(connect_error("unix:" + path), 0);
}

// As by a step that took too long to be waited for: daemon/file_step.h.
void one_that_is_bound_already() {
  unit::Folder folder;
  const std::string path = folder / "sock";
  const SocketAddress address = resolve(parsed("unix:" + path));
  for (const char* what_then : {"is there", "is gone", "is another's"}) {
    Listener listener = Listener::prepare(parsed("unix:" + path), {}, {});
    CU_ASSERT_EQUAL_FATAL(bind(listener.fd(), address.get(), address.length), 0);
    UniqueFd another;
    if (std::strcmp(what_then, "is there") != 0) CU_ASSERT_EQUAL(unlink(path.c_str()), 0);
    if (std::strcmp(what_then, "is another's") == 0) another = bound_but_not_listening(path);
    another.reset();
    listener.start_listening(16);
    CU_ASSERT(unit::same_text(listener.address(), "unix:" + path));
    CU_ASSERT_EQUAL(connect_error("unix:" + path), 0);
    struct stat s {};
    CU_ASSERT(fstat(listener.fd(), &s) == 0 && s.st_ino == listener.inode());
    listener.close_the_door();
    CU_ASSERT_FALSE(exists(path));
  }
}

void a_live_one_is_not() {
  unit::Folder folder;
  const std::string path = folder / "sock",
                    by = "bind unix:" + path + " (a socket of uid " + std::to_string(geteuid()),
                    in_use = " is there): Address already in use";
  Listener live = Listener::open(parsed("unix:" + path), 0);
  const std::string process = ", on which process " + std::to_string(getpid()) + " listens,";
  CU_ASSERT(unit::same_text(error_of_opening("unix:" + path), by + process + in_use));
  // Nor when its queue is full, so that it does not answer.
  UniqueFd clients[3];
  for (UniqueFd& client : clients) connect_error("unix:" + path, &client);
  CU_ASSERT_EQUAL(connect_error("unix:" + path), EAGAIN);
  CU_ASSERT(unit::same_text(error_of_opening("unix:" + path), by + in_use));
  CU_ASSERT_TRUE(exists(path));
}

void other_files_are_left_alone() {
  unit::Folder folder;
  const std::string path = folder / "file";
  std::ofstream(path) << "precious";
  CU_ASSERT(unit::same_text(error_of_opening("unix:" + path),
                            "bind unix:" + path + " (a regular file of uid " +
                                std::to_string(geteuid()) + " is there): Address already in use"));
  std::string content;
  std::ifstream(path) >> content;
  CU_ASSERT(unit::same_text(content, "precious"));
}

// Somebody else has put their own socket there meanwhile.
void removes_only_its_own_path() {
  unit::Folder folder;
  const std::string path = folder / "sock";
  UniqueFd theirs;
  {
    Listener listener = Listener::open(parsed("unix:" + path), 16);
    CU_ASSERT_EQUAL_FATAL(rename(path.c_str(), (folder / "elsewhere").c_str()), 0);
    theirs = bound_but_not_listening(path);
  }
  CU_ASSERT_TRUE(exists(path));
}

void a_released_one_is_let_live() {
  unit::Folder folder;
  const std::string path = folder / "sock";
  UniqueFd fd = Listener::open(parsed("unix:" + path), 16).release_fd();
  CU_ASSERT_TRUE(exists(path));
  CU_ASSERT_EQUAL(connect_error("unix:" + path), 0);
}

void gives_up_for_all_copies() {
  Listener listener = Listener::open(parsed("127.0.0.1:0"), 16);
  UniqueFd copy(dup(listener.fd()));
  listener.close_the_door();
  listener.give_up();
  UniqueFd client;
  connect_error(listener.address(), &client);
  pollfd answer{client.get(), POLLOUT, 0};
  CU_ASSERT_EQUAL(poll(&answer, 1, 10'000), 1);
  CU_ASSERT_TRUE(answer.revents & POLLERR);
  CU_ASSERT(accept4(copy.get(), nullptr, nullptr, 0) < 0 && errno == EINVAL);
}

// --- inherited -----------------------------------------------------------------------------------

void adopts_what_listens() {
  Listener listener = Listener::adopt(bare_listen_socket(), "echo");
  CU_ASSERT(fcntl(listener.fd(), F_GETFL) & O_NONBLOCK);
  // It outlives us: neither step of stopping touches it.
  listener.close_the_door();
  listener.give_up();
  CU_ASSERT_EQUAL(queued_on(listener.fd())->limit, 5);
  CU_ASSERT_EQUAL(connect_error(listener.address()), 0);
}

// Of the only pool that there is.
Listeners listeners_of(const PoolSettings& only, const Listeners& own, const Listeners& others,
                       std::vector<InheritedSocket>& inherited, std::vector<std::string>& errors) {
  Listeners free = own;
  free.insert(free.end(), others.begin(), others.end());
  const std::vector<PoolSettings> pools = {only};
  Opening opening{pools, {}, free, inherited, errors};
  Listeners opened = open_listeners(only, {}, own, opening);
  listen_on_new(opened, own, 16, "", errors);
  return opened;
}

int option(const Listener& listener, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  CU_ASSERT_EQUAL(getsockopt(listener.fd(), level, name, &value, &size), 0);
  return value;
}

// What was never asked for stays as systemd made it.
void sets_options_of_what_it_adopts() {
  UniqueFd socket = bare_listen_socket();
  const int on = 1;
  CU_ASSERT_EQUAL(setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
  Listener listener = Listener::adopt(std::move(socket), "web");
  auto are = [&](int nodelay, int keepalive) {
    CU_ASSERT_EQUAL(option(listener, IPPROTO_TCP, TCP_NODELAY), nodelay);
    CU_ASSERT_EQUAL(option(listener, SOL_SOCKET, SO_KEEPALIVE), keepalive);
  };
  listener.set_options({});
  are(1, 0);
  listener.set_options({.keepalive = 60});
  are(1, 1);
  CU_ASSERT_EQUAL(option(listener, IPPROTO_TCP, TCP_KEEPIDLE), 60);
  listener.set_options({});
  are(1, 0);
  listener.set_options({.nodelay = true});
  listener.set_options({});
  are(0, 0);
  CU_ASSERT_FALSE(listener.cannot_have({.reuse_port = true}));  // that is systemd's matter
}

void options_of_a_pool() {
  const TcpOptions all{true, 60, 5, 7, true};
  std::vector<std::string> errors;
  std::vector<InheritedSocket> none;
  unit::Folder folder;
  auto listeners = listeners_of(pool({"127.0.0.1:0", "[::1]:0", "unix:" + (folder / "sock")}, all),
                                {}, {}, none, errors);
  CU_ASSERT(errors.empty());
  CU_ASSERT_EQUAL_FATAL(listeners.size(), 3);
  for (const auto& listener : listeners) CU_ASSERT_FALSE(listener->cannot_have(all));
  listeners.back()->set_options({});  // does nothing to a Unix socket
  CU_ASSERT_FALSE(listeners.back()->cannot_have({}));
  listeners.pop_back();
  for (const auto& listener : listeners) {
    CU_ASSERT_EQUAL(option(*listener, IPPROTO_TCP, TCP_NODELAY), 1);
    CU_ASSERT_EQUAL(option(*listener, SOL_SOCKET, SO_KEEPALIVE), 1);
    CU_ASSERT_EQUAL(option(*listener, IPPROTO_TCP, TCP_KEEPIDLE), 60);
    CU_ASSERT_EQUAL(option(*listener, IPPROTO_TCP, TCP_FASTOPEN), 7);
    CU_ASSERT(option(*listener, IPPROTO_TCP, TCP_DEFER_ACCEPT) >= 5);
    CU_ASSERT_EQUAL(option(*listener, SOL_SOCKET, SO_REUSEPORT), 1);
    CU_ASSERT_TRUE(listener->cannot_have({}));
    // Another one on the same port.
    auto twin = Listener::open(parsed(listener->address()), 16, {}, all);
    CU_ASSERT(unit::same_text(twin.address(), listener->address()));
    listener->set_options({});
    CU_ASSERT_EQUAL(option(*listener, IPPROTO_TCP, TCP_NODELAY), 0);
    CU_ASSERT_EQUAL(option(*listener, SOL_SOCKET, SO_KEEPALIVE), 0);
    CU_ASSERT_EQUAL(option(*listener, IPPROTO_TCP, TCP_FASTOPEN), 0);
    CU_ASSERT_EQUAL(option(*listener, IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
  }
}

// Of one that was stored nothing is known: everything is set.
void sets_all_options_of_what_it_recovers() {
  UniqueFd socket = bare_listen_socket();
  const int on = 1;
  CU_ASSERT_EQUAL(setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
  Listener listener = Listener::recover(std::move(socket), "preforkd/a/b", "127.0.0.1:0");
  listener.set_options({});
  CU_ASSERT_EQUAL(option(listener, IPPROTO_TCP, TCP_NODELAY), 0);
}

// By a process that had a copy: systemd's own is bound still.
void listens_again() {
  const Listener elsewhere = Listener::open(parsed("127.0.0.1:0"), 5);
  const SocketAddress there = resolve(parsed(elsewhere.address()));
  for (const bool is_connected : {false, true}) {
    UniqueFd fd = bare_listen_socket();
    const UniqueFd copy(dup(fd.get()));
    CU_ASSERT_EQUAL(shutdown(copy.get(), SHUT_RDWR), 0);
    // (Some kernels refuse that of a socket that has listened: then nobody can do it.)
    if (is_connected && connect(copy.get(), there.get(), there.length) < 0) {
      CU_ASSERT_EQUAL(errno, EINVAL);
      break;
    }
    Listener listener = is_connected ? Listener::adopt(std::move(fd), "web")
                                     : Listener::recover(std::move(fd), "preforkd/a/b", "w");
    const std::string address = listener.address();
    CU_ASSERT_FALSE(listener.is_listening());
    listener.start_listening(5);
    CU_ASSERT(listener.is_listening() && unit::same_text(listener.address(), address));
    const SocketAddress here = resolve(parsed(address));
    const UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CU_ASSERT_EQUAL(connect(client.get(), here.get(), here.length), 0);
  }
  // A Unix socket cannot: one that was stored is not used any more.
  Listener local = Listener::open(parsed("unix:@preforkd-shut-" + std::to_string(getpid())), 5);
  shutdown(local.fd(), SHUT_RDWR);
  std::string why;
  try {
    Listener::recover(UniqueFd(dup(local.fd())), "preforkd/a/b", local.address());
  } catch (const std::exception& e) {
    why = e.what();
  }
  CU_ASSERT(unit::same_text(why, local.address() + ": it was shut down"));
}

// A daemon that was killed has left it, and somebody has put another's in its place since.
void recovers_nobody_elses_path() {
  unit::Folder folder;
  const std::string path = folder / "sock", text = "unix:" + path;
  Listener first = Listener::open(parsed(text), 16);
  {
    Listener same = Listener::recover(UniqueFd(dup(first.fd())), "preforkd/a/b", text);
    CU_ASSERT(same.has_its_file());
  }
  CU_ASSERT_TRUE(exists(path));  // stored: it is left
  CU_ASSERT_EQUAL_FATAL(rename(path.c_str(), (path + ".moved").c_str()), 0);
  CU_ASSERT_FALSE(first.has_its_file());
  const UniqueFd theirs = bound_but_not_listening(path);
  CU_ASSERT_FALSE(first.has_its_file());
  std::string said;
  try {
    Listener::recover(UniqueFd(dup(first.fd())), "preforkd/a/b", text);
  } catch (const std::runtime_error& e) {
    said = e.what();
  }
  CU_ASSERT(unit::same_text(said, text + ": its path is gone, or another's"));
  CU_ASSERT_TRUE(exists(path));
}

void adopts_nothing_else() {
  int pipe_ends[2];
  CU_ASSERT_EQUAL_FATAL(pipe2(pipe_ends, O_CLOEXEC), 0);
  UniqueFd write_end(pipe_ends[1]);
  UniqueFd others[] = {UniqueFd(pipe_ends[0]), UniqueFd(socket(AF_INET, SOCK_STREAM, 0)),
                       UniqueFd(socket(AF_INET, SOCK_DGRAM, 0))};
  for (UniqueFd& other : others) {
    std::string said;
    try {
      Listener::adopt(std::move(other), "echo");
    } catch (const std::runtime_error& e) {
      said = e.what();
    }
    CU_ASSERT(unit::same_text(said, "systemd:echo: not a listening stream socket"));
  }
}

void a_pools_listeners() {
  std::vector<InheritedSocket> inherited;
  inherited.push_back({bare_listen_socket(), "web"});
  inherited.push_back({bare_listen_socket(), "other"});
  inherited.push_back({bare_listen_socket(), "web"});
  std::vector<std::string> errors;
  auto listeners = listeners_of(
      pool({"127.0.0.1:0", "systemd:web", "systemd:none", "nonsense", "unix:/nonexistent/sock"}),
      {}, {}, inherited, errors);
  CU_ASSERT_EQUAL(listeners.size(), 4);  // two sockets share a name
  CU_ASSERT(!inherited[0].fd.is_open() && inherited[1].fd.is_open() && !inherited[2].fd.is_open());
  CU_ASSERT_EQUAL_FATAL(errors.size(), 3);
  CU_ASSERT(
      unit::same_text(errors[0], "listen systemd:none: systemd passed no socket of that name"));
  CU_ASSERT(errors[1].starts_with("nonsense: expected "));
  CU_ASSERT(unit::same_text(errors[2], "bind unix:/nonexistent/sock: No such file or directory"));

  // A reload: the same entries mean the same sockets; another one means another.
  errors.clear();
  auto again = listeners_of(pool({"systemd:web", "127.0.0.1:0", "[::1]:0"}), listeners, {},
                            inherited, errors);
  CU_ASSERT(errors.empty());
  CU_ASSERT_EQUAL_FATAL(again.size(), 4);
  CU_ASSERT(again[0] == listeners[1] && again[1] == listeners[2] && again[2] == listeners[0]);
  CU_ASSERT_FALSE(contains(listeners, again[3]));
  // From another pool by its address only: port 0 is any port.
  auto other = listeners_of(pool({listeners[0]->address(), "127.0.0.1:0", "systemd:web"}), {},
                            listeners, inherited, errors);
  CU_ASSERT(errors.empty());
  CU_ASSERT_EQUAL_FATAL(other.size(), 4);
  CU_ASSERT(other[0] == listeners[0] && !contains(listeners, other[1]));
  CU_ASSERT(other[2] == listeners[1] && other[3] == listeners[2]);
}

// Of port 0 each entry has a socket of its own, and keeps one.
void several_of_port_0() {
  std::vector<InheritedSocket> none;
  std::vector<std::string> errors;
  const std::string any = "127.0.0.1:0";
  const Listeners own = listeners_of(pool({any, any}), {}, {}, none, errors);
  CU_ASSERT_EQUAL_FATAL(own.size(), 2);
  CU_ASSERT(own[0]->address() != own[1]->address());
  CU_ASSERT(listeners_of(pool({any, any}), own, {}, none, errors) == own);
  const Listeners more = listeners_of(pool({any, any, any}), own, {}, none, errors);
  CU_ASSERT_EQUAL_FATAL(more.size(), 3);
  CU_ASSERT(more[0] == own[0] && more[1] == own[1] && !contains(own, more[2]));
  CU_ASSERT(listeners_of(pool({any}), own, {}, none, errors) == Listeners{own[0]});
  // One that is named now is that entry's, wherever it stands.
  CU_ASSERT(listeners_of(pool({any, own[0]->address()}), own, {}, none, errors) ==
            (Listeners{own[1], own[0]}));

  // The same with another pool: what that takes is taken.
  const std::vector<PoolSettings> pools = {pool({any, any}), pool({own[0]->address()})};
  Listeners free = own;
  Opening opening{pools, {}, free, none, errors};
  const Listeners first = open_listeners(pools[0], {}, own, opening);
  CU_ASSERT_EQUAL_FATAL(first.size(), 2);
  CU_ASSERT(first[0] == own[1] && !contains(own, first[1]));
  CU_ASSERT(open_listeners(pools[1], {}, {}, opening) == Listeners{own[0]});
  CU_ASSERT(free.empty() && errors.empty());
}

// Under one name in systemd's store they would be removed together.
void stores_several_of_port_0() {
  SocketStore store;
  std::vector<InheritedSocket> none;
  std::vector<std::string> errors;
  const std::string any = "127.0.0.1:0";
  const Listeners own = listeners_of(pool({any, "[::1]:0", any}), {}, {}, none, errors);
  CU_ASSERT_EQUAL_FATAL(own.size(), 3);
  store_sockets("web", own);
  std::vector<InheritedSocket> stored;
  for (const auto& listener : own) {
    for (const InheritedSocket& other : stored) CU_ASSERT(other.name != listener->stored_as());
    stored.push_back({UniqueFd(dup(listener->fd())), listener->stored_as()});
  }
  CU_ASSERT(unit::same_text(stored[0].name, "preforkd/web@0/127.0.0.1=0=" +
                                                own[0]->address().substr(strlen("127.0.0.1:"))));
  const Listeners again = recover_stored(stored, {})["web"];
  CU_ASSERT_EQUAL_FATAL(again.size(), 3);
  for (size_t i = 0; i < again.size(); ++i)
    CU_ASSERT(again[i]->wanted() == own[i]->wanted() && again[i]->address() == own[i]->address());
}

}  // namespace

void add_listener_tests() {
  static const unit::Test kTests[] = {
      {"opens on any free port", opens_on_any_port},
      {"an address in use", in_use},
      {"IPv4 and IPv6 on one port", both_families_on_one_port},
      {"says why it cannot be opened", says_why},
      {"a Unix socket, gone at the end", a_unix_socket},
      {"a stale Unix socket is replaced", a_stale_one_is_replaced},
      {"a Unix socket that is bound already", one_that_is_bound_already},
      {"a live Unix socket is not", a_live_one_is_not},
      {"other files are left alone", other_files_are_left_alone},
      {"removes only its own path", removes_only_its_own_path},
      {"a released one is let live", a_released_one_is_let_live},
      {"gives up for all copies", gives_up_for_all_copies},
      {"adopts what listens", adopts_what_listens},
      {"sets options of what it adopts", sets_options_of_what_it_adopts},
      {"sets all options of what it recovers", sets_all_options_of_what_it_recovers},
      {"recovers nobody else's path", recovers_nobody_elses_path},
      {"options of a pool", options_of_a_pool},
      {"what was shut down listens again", listens_again},
      {"adopts nothing else", adopts_nothing_else},
      {"several of port 0", several_of_port_0},
      {"several of port 0 in systemd's store", stores_several_of_port_0},
      {"a pool's listeners, and every error", a_pools_listeners},
  };
  unit::add_suite("listener", kTests);
}
