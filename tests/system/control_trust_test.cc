// What local users, and web pages, may do to control: look, and no more. Whoever may change things gets through to
// the daemon whatever the others do; what one of them attaches, does not read, or never ends holds nobody up.
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "base/attachment.h"
#include "base/clock.h"
#include "ipc/control_messages.h"
#include "tests/system/conditions.h"
#include "tests/system/installation.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

namespace preforkd::system_test {
namespace {

constexpr uid_t kFirstUser = 4'242'000;  // nobody's

// A process of another user that does harm until the end of the scope.
class LocalUser {
 public:
  LocalUser(uid_t uid, const std::function<void()>& work) : pid_(fork()) {
    if (pid_ < 0) throw Failure("fork an attacker");
    if (pid_ > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (setgroups(0, nullptr) == 0 && setresgid(uid, uid, uid) == 0 &&
        setresuid(uid, uid, uid) == 0)
      work();
    _exit(1);
  }
  LocalUser(const LocalUser&) = delete;
  LocalUser& operator=(const LocalUser&) = delete;
  ~LocalUser() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  bool goes_on() const { return is_running(pid_); }

 private:
  pid_t pid_;
};

// Connects as others do; not open if that did not go at once.
UniqueFd connected_to(const std::string& path, int more = SOCK_NONBLOCK) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  path.copy(to.sun_path, sizeof to.sun_path - 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | more, 0));
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) < 0) fd.reset();
  return fd;
}

// So many connections that say `text` and read nothing, each made again as soon as it is ended.
void occupy(const std::string& path, size_t count, const std::string& text) {
  std::vector<UniqueFd> mine(count);
  std::vector<pollfd> watched(count);
  for (;;) {
    for (size_t i = 0; i < count; ++i) {
      if (!mine[i].is_open()) {
        mine[i] = connected_to(path);
        if (mine[i].is_open()) send(mine[i].get(), text.data(), text.size(), MSG_NOSIGNAL);
      }
      watched[i] = {mine[i].get(), 0, 0};
    }
    poll(watched.data(), watched.size(), 1);
    for (size_t i = 0; i < count; ++i)
      if (watched[i].revents & (POLLHUP | POLLERR)) mine[i].reset();
  }
}

void connect_and_close(const std::string& path) {
  for (;;) connected_to(path, 0);
}

constexpr char kWorkersPlease[] = "GET /v1/pools/echo/workers HTTP/1.1\r\nHost: x\r\n\r\n";

// --- places ----------------------------------------------------------------------------------------

// One change after the other, each by a preforkctl of its own: all are done, and how long the slowest took.
void expect_changes(Server& server, int count, const std::string& during) {
  int done = 0;
  double slowest = 0;
  std::string trouble;
  for (int i = 0; i < count; ++i) {
    const Nanoseconds began = monotonic_now();
    Outcome set = server.ctl({"set", "echo", "max_spare=" + std::to_string(4000 + i % 2)});
    slowest = std::max(slowest, to_seconds(monotonic_now() - began));
    if (set.code == 0)
      ++done;
    else
      trouble = set.err;
  }
  std::printf("\n    %s: %d of %d done, the slowest in %.3f s ", during.c_str(), done, count,
              slowest);
  expect_equal(during + ": changes done " + trouble, done, count);
  // (Far above what it takes, for loaded machines, and far below the 11 s, or never, of places without owners.)
  expect(slowest < 6 * slowness(), during + ": none is kept waiting");
}

// With so many workers an answer about them is larger than what the kernel takes for who does not read it.
PoolText large_pool() {
  return {.workers = "min = 1000; max = 4100; min_spare = 0; max_spare = 4000; starting = 512;"};
}

void hostile_users() {
  if (!is_root()) return skip("only root can be other users");
  Server server({large_pool()}, {.wait_until_ready = false});
  server.wait_until_ready(3 * kPatience);
  const std::string path = server.socket();
  const pid_t control = server.control();
  {
    LocalUser one(kFirstUser, [&] { occupy(path, 16, kWorkersPlease); }),
        two(kFirstUser + 1, [&] { occupy(path, 16, kWorkersPlease); });
    expect_changes(server, 50, "two who never read");
  }
  {
    LocalUser one(kFirstUser, [&] { occupy(path, 300, kWorkersPlease); }),
        two(kFirstUser + 1, [&] { occupy(path, 300, ""); }),
        three(kFirstUser + 2, [&] { connect_and_close(path); });
    expect_changes(server, 80, "600 connections, and one who comes and goes");
    // Who may only look is one among many, and gets his turn.
    for (int i = 0; i < 10; ++i) {
      Outcome look = run({"setpriv", "--reuid=4242009", "--regid=4242009", "--clear-groups",
                          built("preforkctl"), "--socket", path, "status"});
      expect_equal("a fourth user looks " + look.err, look.code, 0);
    }
    expect(one.goes_on() && two.goes_on() && three.goes_on(), "the attack goes on");
  }
  {
    LocalUser four[] = {{kFirstUser, [&] { occupy(path, 4, ""); }},
                        {kFirstUser + 1, [&] { connect_and_close(path); }},
                        {kFirstUser + 1, [&] { connect_and_close(path); }},
                        {kFirstUser + 1, [&] { connect_and_close(path); }}};
    expect_changes(server, 40, "four who only connect");
  }
  expect_equal("control is the same", server.control(), control);
}

// Who does not read holds memory: there is an end to that, too.
void unread_answers() {
  if (!is_root()) return skip("only root can be other users");
  Server server({large_pool()}, {.wait_until_ready = false});
  server.wait_until_ready(3 * kPatience);
  const std::string path = server.socket();
  server.workers();
  auto peak = [pid = server.control()] {
    const std::string status = file_text("/proc/" + std::to_string(pid) + "/status");
    return std::stol(status.substr(status.find("VmHWM:") + 6)) / 1024;
  };
  const long before = peak();
  LocalUser one(kFirstUser, [&] { occupy(path, 200, kWorkersPlease); }),
      two(kFirstUser + 1, [&] { occupy(path, 200, kWorkersPlease); });
  expect_changes(server, 50, "400 who never read");
  const long after = peak();
  std::printf("memory %ld MiB, before %ld MiB ", after, before);
  // (AddressSanitizer keeps what was freed.)
  expect(are_sanitized() || after - before < 100, "unread answers take less than 100 MiB");
}

// --- questions -------------------------------------------------------------------------------------

// A daemon that says nothing: who asked hears that, and the next who asks finds a place.
void unanswered_questions() {
  constexpr size_t kMany = 140;  // more than may be asked at once
  Server server({PoolText{}});
  server.signal(SIGSTOP);
  const std::string body = "{\"min\":4}";
  const std::string patch =
      "PATCH /v1/pools/echo/limits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  std::vector<Client> asked;
  for (size_t i = 0; i < kMany; ++i) asked.emplace_back("unix:" + server.socket()).send(patch);
  expect_equal("who looks is answered meanwhile", server.ctl({"status"}).code, 0);
  size_t late = 0, busy = 0;
  for (Client& client : asked) {
    const std::string answer = client.read_until_eof();
    if (answer.starts_with("HTTP/1.1 504")) ++late;
    if (answer.starts_with("HTTP/1.1 503")) ++busy;
    if (late == 1) expect_contains("the reason", answer, "within 10 s");
  }
  expect_equal("answered that it takes too long", late, 128u);
  expect_equal("turned away", busy, kMany - 128);
  server.signal(SIGCONT);
  expect_equal("the next", server.ctl({"set", "echo", "max=9"}).code, 0);
}

// --- what is attached --------------------------------------------------------------------------------

// A socket whose last close takes 40 s: it lingers, and what it has to send nobody takes.
class SlowToClose {
 public:
  SlowToClose() {
    listener_.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    bind(listener_.get(), reinterpret_cast<sockaddr*>(&at), sizeof at);
    listen(listener_.get(), 1);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&at), &size);
    fd_.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd_.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) < 0)
      throw Failure("connect to ourselves");
    const linger slow{1, 40};
    setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &slow, sizeof slow);
    const std::string much(1 << 20, 'x');
    while (send(fd_.get(), much.data(), much.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) continue;
  }
  // By a connection that has said nothing yet; then we have it no more. 0, or the errno.
  int attach_to(int connection, std::string_view text) {
    iovec part{const_cast<char*>(text.data()), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    Attachment along;
    const int fd = fd_.get();
    along.attach(message, fd);
    const int error = sendmsg(connection, &message, MSG_NOSIGNAL) < 0 ? errno : 0;
    if (error == 0) fd_.reset();
    // Where it was refused it is ours to close, and quickly.
    const linger at_once{1, 0};
    if (error != 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    return error;
  }

 private:
  UniqueFd listener_, fd_;
};

bool kernel_can_refuse_rights() {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int off = 0;
  return setsockopt(fd.get(), SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof off) == 0;
}

void attached_descriptors() {
  if (!kernel_can_refuse_rights()) return skip("this Linux takes what is attached");
  Server server({PoolText{}});
  const pid_t control = server.control();
  for (int i = 0; i < 3; ++i) {
    SlowToClose slow;
    UniqueFd connection = connected_to(server.socket(), 0);
    expect_equal("what is attached is refused", slow.attach_to(connection.get(), kWorkersPlease),
                 EPERM);
    const Nanoseconds began = monotonic_now();
    expect_equal("control answers", server.ctl({"status"}).code, 0);
    expect(monotonic_now() - began < 2 * kSecond, "control answers at once");
  }
  expect_equal("control is the same", server.control(), control);
}

// As before Linux 6.16.
void forget_passrights() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_setsockopt, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),  // (of little endian)
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOL_SOCKET, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SO_PASSRIGHTS, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOPROTOOPT),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter{std::size(program), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
    _exit(127);
}

// Control stands in the kernel until the socket is closed, and is replaced; whoever asked meanwhile is answered by
// the next one.
void replaced_where_they_are_taken() {
  ServerOptions options;
  options.in_child = forget_passrights;
  Server server({PoolText{}}, options);
  const pid_t control = server.control();
  SlowToClose slow;
  UniqueFd connection = connected_to(server.socket(), 0);
  // Ours is closed before control looks: who closes last stands there.
  kill(control, SIGSTOP);
  expect_equal("what is attached is taken", slow.attach_to(connection.get(), kWorkersPlease), 0);
  kill(control, SIGCONT);
  // The first may be answered before control looks at what was sent.
  server.wait_until("preforkctl is answered by another control", kPatience * 2, [&] {
    const Nanoseconds began = monotonic_now();
    const Outcome asked = server.ctl({"status"});
    expect_equal("preforkctl is answered: " + asked.err, asked.code, 0);
    const double took = to_seconds(monotonic_now() - began);
    expect(took < 12, "within 12 s: " + std::to_string(took));
    return server.control() != control;
  });
}

// Who waits while there is no control has the next one stand there, and nobody else need come for the daemon to see it.
void replaced_where_one_has_waited() {
  ServerOptions options;
  options.in_child = forget_passrights;
  Server server({PoolText{}}, options);
  const pid_t first = server.control();
  kill(first, SIGSTOP);  // until it is killed for that
  SlowToClose slow;
  UniqueFd connection = connected_to(server.socket(), 0);
  expect_equal("what is attached is taken", slow.attach_to(connection.get(), kWorkersPlease), 0);
  auto wait_for_another_than = [&](pid_t one) {
    pid_t now = 0;
    server.wait_until("another control than " + std::to_string(one), kPatience, [&] {
      now = server.find_process("preforkd: control");
      return now != 0 && now != one;
    });
    return now;
  };
  wait_for_another_than(wait_for_another_than(first));
  expect_equal("preforkctl is answered", server.ctl({"status"}).code, 0);
}

// --- whose name it is ------------------------------------------------------------------------------

long get_by_name(const std::string& address, const std::string& host,
                 const std::string& path = "/v1/pools/echo/workers") {
  Client client(address);
  client.send("GET " + path + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n");
  const std::string answer = client.read_until_eof();
  if (!answer.starts_with("HTTP/1.1 ")) return 0;
  const long status = std::stol(answer.substr(9));
  if (status == 421) expect_contains(host, answer, "control.hosts");
  return status;
}

std::string with_web(const std::string& address, const std::string& hosts) {
  std::string config = config_of({PoolText{}});
  config.replace(config.find("web = \"\";"), 9,
                 "web = \"" + address + "\"; hosts = [ " + hosts + " ];");
  return config;
}

void rebound_names() {
  TakenPort port;
  const std::string web = port.address(), number = ":" + std::to_string(port.number());
  const std::string config = with_web(web, "\"stats.example.org\"");
  port.free();
  Server server(config);
  const struct {
    std::string host;
    long status;
  } kRows[] = {
      {"Host: " + web + "\r\n", 200},
      {"Host: 127.0.0.1\r\n", 200},
      {"Host: 192.0.2.7:80\r\n", 200},
      {"Host: [::1]" + number + "\r\n", 200},
      {"Host: localhost" + number + "\r\n", 200},
      {"Host: Stats.Example.Org" + number + "\r\n", 200},
      {"Host: attacker.example" + number + "\r\n", 421},
      {"Host: stats.example.org.attacker.example\r\n", 421},
      {"Host: 127.0.0.1.attacker.example\r\n", 421},
      {"Host: localhost.attacker.example\r\n", 421},
      {"", 400},
      {"Host:\r\n", 400},
      {"Host: user@127.0.0.1\r\n", 400},
      {"Host: 127.0.0.1\r\nHost: attacker.example\r\n", 400},
  };
  for (const auto& row : kRows)
    for (const char* path : {"/v1/pools/echo/workers", "/metrics", "/", "/nothing"})
      expect_equal(row.host + path, get_by_name(web, row.host, path),
                   row.status == 200 && path == std::string("/nothing") ? 404 : row.status);
  // Whoever is on this machine and has the socket says what he likes.
  expect_equal("on the Unix socket",
               get_by_name("unix:" + server.socket(), "Host: attacker.example\r\n"), 200);
}

void other_names_by_reload() {
  TakenPort port;
  const std::string web = port.address();
  const std::string one = with_web(web, "\"one.example\""), two = with_web(web, "\"two.example\"");
  port.free();
  Server server(one);
  expect_equal("before", get_by_name(web, "Host: one.example\r\n"), 200);
  expect_equal("before", get_by_name(web, "Host: two.example\r\n"), 421);
  server.write_config(two);
  expect_equal("the reload", server.ctl({"reload"}).code, 0);
  server.wait_until("the new name is known", kPatience,
                    [&] { return get_by_name(web, "Host: two.example\r\n") == 200; });
  server.wait_until("the old one is not", kPatience,
                    [&] { return get_by_name(web, "Host: one.example\r\n") == 421; });
  server.write_config(config_of({PoolText{}}));
  expect_equal("the reload without", server.ctl({"reload"}).code, 0);
  server.wait_until("nobody is there", kPatience, [&] { return !Client::try_connect(web); });
}

// --- a control that was taken over ---------------------------------------------------------------

pid_t web_control(Server& server) {
  for (pid_t pid : children_of(server.pid()))
    if (title_of(pid).starts_with("preforkd: control web")) return pid;
  throw Failure("there is no control of the page");
}

void until_both_answer(Server& server, const std::string& web) {
  server.wait_until("control answers", kPatience, [&] { return server.ctl({"status"}).code == 0; });
  server.wait_until("the page is there", kPatience,
                    [&] { return get_by_name(web, "Host: localhost\r\n") == 200; });
}

// For all who have it; and what a port does not listen on any more, anybody could bind.
void a_socket_that_was_shut_down() {
  if (!is_root()) return skip("only root can take another's descriptor");
  TakenPort port;
  const std::string web = port.address(), config = with_web(web, "");
  port.free();
  Server server(config);
  for (int how : {SHUT_RDWR, SHUT_RD})
    for (bool is_web : {false, true}) {
      const pid_t bad = is_web ? web_control(server) : server.control();
      shutdown(taken_from(bad, 5).get(), how);
      server.wait_for_log("control " + std::to_string(bad) +
                          " has a listen socket that was shut down: killed");
      until_both_answer(server, web);
    }
  server.wait_for_log("control's socket " + web + " was shut down: made anew");
  server.wait_for_log("control's socket unix:" + server.socket() + " was shut down: made anew");
  const pid_t before = web_control(server);
  server.write_config(with_web(web, "\"another.example\""));
  shutdown(taken_from(before, 5).get(), SHUT_RDWR);
  expect_equal("a reload meanwhile", server.ctl({"reload"}).code, 0);
  server.wait_until("the new name is known", kPatience,
                    [&] { return get_by_name(web, "Host: another.example\r\n") == 200; });
}

void a_socket_without_its_file() {
  Server server({PoolText{}});
  pid_t before = server.control();
  unlink(server.socket().c_str());
  kill(before, SIGKILL);
  server.wait_until("preforkctl finds the next one", kPatience,
                    [&] { return server.ctl({"status"}).code == 0; });
  server.wait_for_log(" has lost its file: made anew");
  for (const char* what : {"nobody asks", "the one after it, too"}) {
    before = server.control();
    unlink(server.socket().c_str());
    server.wait_until(std::string("it comes back: ") + what, kPatience,
                      [&] { return server.ctl({"status"}).code == 0; });
    expect(server.control() != before, "it is another one");
  }
  std::filesystem::remove_all(std::filesystem::path(server.socket()).parent_path());
  server.wait_until("it comes back, with the runtime directory", kPatience,
                    [&] { return server.ctl({"status"}).code == 0; });
  // What a stranger puts there is left alone, whoever dies meanwhile, and figures are read.
  unlink(server.socket().c_str());
  std::ofstream(server.socket()) << "precious";
  server.wait_for_log(": control's socket has lost its file, and comes back when that is gone");
  server.signal(SIGHUP);
  before = server.control();
  kill(before, SIGKILL);
  server.wait_until("there is another control", kPatience, [&] {
    const pid_t now = server.find_process("preforkd: control");
    return now > 0 && now != before;
  });
  std::string text;
  std::ifstream(server.socket()) >> text;
  expect_equal("the stranger's file", text, "precious");
  unlink(server.socket().c_str());
  server.wait_until("it comes back when that is gone", kPatience,
                    [&] { return server.ctl({"status"}).code == 0; });
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(), 0);
  expect(access(server.socket().c_str(), F_OK) != 0, "the file is gone in the end");
}

void questions_that_there_are_not() {
  if (!is_root()) return skip("only root can take another's descriptor");
  Server server({PoolText{}});
  for (uint32_t ask : {0u, 10u, 99u, ~0u}) {
    struct {
      uint32_t size = sizeof(Request), number = 0;
      Request request{};
    } said;
    said.request.ask = static_cast<ControlAsk>(ask);
    const pid_t bad = server.control();
    UniqueFd requests = taken_from(bad, 4);
    expect(write(requests.get(), &said, sizeof said) == sizeof said, "it is asked");
    requests.reset();
    server.wait_for_log("control " + std::to_string(bad) + " asks for what there is not: killed");
    server.wait_until("another one answers", kPatience,
                      [&] { return server.ctl({"status"}).code == 0; });
  }
}

// It could go on to accept in its successor's place, or write into the log.
void what_it_leaves_behind() {
  if (!is_root()) return skip("only root can run them as their users");
  for (const char* name : {"preforkd-control", "preforkd-log"}) {
    Installation installed;
    const std::string program =
        installed.preforkd().substr(0, installed.preforkd().rfind('/') + 1) + name;
    std::filesystem::rename(program, program + ".real");
    std::filesystem::copy_file(built("tests/system/programs/forks"), program);
    for (const std::string& file : {program, program + ".real"})
      std::filesystem::permissions(file, std::filesystem::perms(0755));
    Server server({PoolText{}}, {.program = installed.preforkd()});
    const bool is_log = name == std::string("preforkd-log");
    auto left = [] {
      std::vector<pid_t> all = processes_named("left_in");
      for (pid_t pid : processes_named("left_out")) all.push_back(pid);
      return all;
    };
    server.wait_until(std::string(name) + " has left two processes behind", kPatience,
                      [&] { return left().size() == 2; });
    // The next one, which is of the same file, is as it should be.
    std::filesystem::create_symlink("/dev/null", program + ".good");
    kill(is_log ? server.log_writer() : server.control(), SIGKILL);
    server.wait_until("they are ended with it", kPatience, [&] { return left().empty(); });
    server.wait_for_log("has left behind, is killed");
    server.wait_until("another one answers", kPatience,
                      [&] { return server.ctl({"status"}).code == 0; });
  }
}

size_t descriptors_of(pid_t pid) {
  namespace fs = std::filesystem;
  const fs::directory_iterator folder("/proc/" + std::to_string(pid) + "/fd");
  return static_cast<size_t>(std::distance(folder, fs::directory_iterator()));
}

// Each control is killed as soon as there is one, nearly always before it has read anything.
std::jthread killing_each_control(pid_t daemon) {
  return std::jthread([daemon](const std::stop_token& stop) {
    const timespec pause = to_timespec(kMillisecond);
    for (; !stop.stop_requested(); nanosleep(&pause, nullptr))
      for (pid_t child : children_of(daemon))
        if (title_of(child).starts_with("preforkd: control")) kill(child, SIGKILL);
  });
}

// Nobody reads the figures of generations that end meanwhile. The daemon keeps the last few, and is well.
void one_that_cannot_be_started() {
  constexpr size_t kMore = 4;
  constexpr int kKept = 8, kMost = 60;
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 0; max_spare = 0;"}});
  const std::string address = server.address();
  const pid_t daemon = server.pid();
  std::jthread killing = killing_each_control(daemon);
  server.wait_for_log("(killed by signal 9 (Killed))");
  auto lost = [&] {  // the numbers of generations
    std::set<int> found;
    const std::string log = server.log(), said = "the figures of generation ";
    for (size_t at = 0; (at = log.find(said, at)) != log.npos;)
      found.insert(std::atoi(log.c_str() + (at += said.size())));
    return found;
  };
  size_t kept = 0;
  int ended = 0;
  while (lost().size() < kMore && ++ended <= kMost) {
    const std::string number = std::to_string(ended);
    expect(Client(address).echoes("hello\n"), "generation " + number + " serves");
    const pid_t supervisor = server.wait_for_process("preforkd: supervisor echo");
    kill(supervisor, SIGKILL);
    server.wait_for_log("generation " + number + " has ended");
    server.wait_until("there is another supervisor", kPatience, [&] {
      const pid_t next = server.find_process("preforkd: supervisor echo");
      return next > 0 && next != supervisor;
    });
    expect(Client(address).echoes("hello\n"), "the next one serves");
    if (lost().size() <= 1) kept = descriptors_of(daemon);
  }
  expect(lost().size() >= kMore, "some are lost");
  server.wait_until("the daemon has no more descriptors than with the first of them", kPatience,
                    [&] { return descriptors_of(daemon) <= kept + 1; });
  killing = {};
  server.wait_until("control is back", kPatience, [&] { return server.ctl({"status"}).code == 0; });
  server.wait_for_one_generation();
  // Of each two, but of the first and the last only one.
  server.wait_until("all others are counted", kPatience, [&] {
    int served = 2 * ended;
    for (const int number : lost()) served -= number == 1 ? 1 : 2;
    return server.pool()["connections"]["served"] == served;
  });
  expect(*lost().rbegin() <= ended - kKept, "no more than must be");
}

}  // namespace

Suite control_trust_suite() {
  return {"control_trust",
          {{"hostile users", hostile_users},
           {"unread answers", unread_answers},
           {"questions without an answer", unanswered_questions},
           {"attached descriptors", attached_descriptors},
           {"control is replaced where they are taken", replaced_where_they_are_taken},
           {"control is replaced where one has waited", replaced_where_one_has_waited},
           {"names that were rebound", rebound_names},
           {"other names by a reload", other_names_by_reload},
           {"a socket that was shut down", a_socket_that_was_shut_down},
           {"a socket without its file", a_socket_without_its_file},
           {"questions that there are not", questions_that_there_are_not},
           {"what it leaves behind", what_it_leaves_behind},
           {"one that cannot be started", one_that_cannot_be_started}}};
}

}  // namespace preforkd::system_test
