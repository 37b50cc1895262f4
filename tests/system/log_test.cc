// The log: nobody can take it from others, nobody waits for who reads it, and it goes on whatever dies.
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "ipc/log_messages.h"
#include "tests/system/conditions.h"
#include "tests/system/machine.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

// A program for each client, which does with its descriptor 2 what the client's lines say, and answers each with one.
// SIGPIPE ends it, as it ends most.
constexpr char kTalker[] = R"(
import fcntl, os, signal, socket, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
def attack():
    for act in (lambda: socket.socket(fileno=os.dup(2)).shutdown(socket.SHUT_RDWR),
                lambda: os.ftruncate(2, 0),
                lambda: os.ftruncate(1, 0),
                lambda: fcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND),
                lambda: os.close(os.open("/proc/self/fd/2", os.O_WRONLY | os.O_TRUNC)),
                lambda: os.dup2(0, 2),
                lambda: os.close(2)):
        try:
            act()
        except OSError:
            pass
for line in sys.stdin.buffer:
    order, _, rest = line.rstrip().partition(b" ")
    if order == b"say":
        os.write(2, rest + b"\n")
    elif order == b"flood":
        for i in range(int(rest)):
            os.write(2, b"flood %06d " % i + b"x" * 86 + b"\n")
    elif order == b"again":
        with open("/dev/stderr", "wb") as log:
            log.write(rest + b"\n")
    elif order == b"long":
        for i in range(int(rest) // 65536):
            os.write(2, b"x" * 65536)
        os.write(2, b"\nafter it\n")
    elif order == b"attack":
        attack()
    os.write(1, b"done\n")
)";

PoolText talker(const std::string& name = "talker", const std::string& user = "") {
  PoolText pool{.name = name, .serves = R"(program = [ "/usr/bin/python3", "-c", ")" + [] {
                  std::string quoted;
                  for (char c : std::string(kTalker)) {
                    if (c == '"' || c == '\\') quoted += '\\';
                    quoted += c == '\n' ? std::string("\\n") : std::string(1, c);
                  }
                  return quoted;
                }() + R"(" ];)"};
  pool.workers = "min = 1; max = 4;";
  if (!user.empty()) pool.more = "user = \"" + user + "\";";
  return pool;
}

void order(Client& client, const std::string& what) {
  client.send(what + "\n");
  expect_equal("answer to " + what, client.read_line(), "done");
}

// Where the daemon's stderr leads, if not to its log file, and the end that somebody reads, or does not.
class Outlet {
 public:
  Outlet(int read_end, int write_end) : read_end_(read_end), write_end_(write_end) {}
  static Outlet pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) throw SysError("pipe", errno);
    return {ends[0], ends[1]};
  }
  static Outlet socket() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
      throw SysError("socketpair", errno);
    return {ends[0], ends[1]};
  }
  static Outlet terminal() {
    int ends[2];
    if (openpty(&ends[0], &ends[1], nullptr, nullptr, nullptr) < 0)
      throw SysError("openpty", errno);
    for (int end : ends) fcntl(end, F_SETFD, FD_CLOEXEC);
    return {ends[0], ends[1]};
  }

  int write_end() const { return write_end_.get(); }
  ServerOptions options() {
    return {.in_child = [fd = write_end_.get()] { dup2(fd, 2); }};
  }
  void close_write_end() { write_end_.reset(); }

  // As much as there is now.
  void read_some() {
    char bytes[65536];
    pollfd p{read_end_.get(), POLLIN, 0};
    if (poll(&p, 1, 0) != 1) return;
    ssize_t n = read(read_end_.get(), bytes, sizeof bytes);
    if (n > 0) text_.append(bytes, static_cast<size_t>(n));
  }
  void wait_for(const std::string& text) {
    wait_until("the log has \"" + text + "\"", kPatience, [&] {
      read_some();
      return text_.find(text) != text_.npos;
    });
  }
  const std::string& text() const { return text_; }

 private:
  UniqueFd read_end_, write_end_;
  std::string text_;
};

double seconds_of(const std::function<void()>& what) {
  const Nanoseconds before = monotonic_now();
  what();
  return static_cast<double>(monotonic_now() - before) / 1e9;
}

void expect_quick(const std::string& what, const std::function<void()>& act, double limit = 1) {
  const double took = seconds_of(act);
  expect(took < limit, what + " took " + std::to_string(took) + " s");
}

// --- nobody takes it from others -----------------------------------------------------------------

void nobody_empties_the_file() {
  Server server({talker("bad", "games"), talker("good", "daemon")});
  server.wait_for_log("ready: 2 of 2 pools running");
  const std::string before = server.log();
  Client good(server.address("good")), bad(server.address("bad"));
  order(good, "say before");
  server.wait_for_log("before");
  order(bad, "attack");
  order(good, "say after");
  server.wait_for_log("after");
  expect(server.log().starts_with(before), "what was in the file is there");
}

void nobody_shuts_the_socket_down() {
  Outlet outlet = Outlet::socket();
  Server server({talker("bad", "games"), talker("good", "daemon")}, outlet.options());
  Client good(server.address("good")), bad(server.address("bad"));
  order(good, "say before");
  outlet.wait_for("before");
  order(bad, "attack");
  for (int i = 0; i < 10; ++i) order(good, "say after " + std::to_string(i));
  outlet.wait_for("after 9");
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(), 0);
  outlet.wait_for("preforkd: stopped");
}

// Whatever it writes: it is its own.
void nobody_speaks_for_others() {
  Server server({PoolText{}, talker("bad")});
  Client bad(server.address("bad"));
  order(bad, "say preforkd: pool echo: degraded: all is lost");
  order(bad, "say a\x1b[1A\x1b[2K\rpreforkd: stopped");
  order(bad,
        "say \x01"
        "30 an error");
  server.wait_for_log("an error");
  const std::string log = server.log();
  expect_contains("the log", log,
                  "\npreforkd: pool bad: preforkd: pool echo: degraded: all is lost\n");
  expect_contains("the log", log, "\npreforkd: pool bad: a?[1A?[2K?preforkd: stopped\n");
  expect_contains("the log", log, "\npreforkd: error: pool bad: an error\n");
}

// Whoever is not preforkd-log has nothing that leads there.
void nobody_else_has_it() {
  Server server({PoolText{}, talker("talker", "games")});
  Client client(server.address("talker"));
  order(client, "again by its name");
  server.wait_for_log("by its name");
  const std::string file = server.folder().file("log");
  size_t have = 0;
  for (pid_t pid : server.all_pids()) {
    if (pid == server.pid() || pid == server.log_writer()) continue;
    for (int fd = 0; fd < 64; ++fd) {
      char target[4096];
      const std::string link = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
      const ssize_t n = readlink(link.c_str(), target, sizeof target);
      if (n > 0 && std::string(target, static_cast<size_t>(n)) == file)
        expect(false, title_of(pid) + " has the log file as " + std::to_string(fd));
    }
    ++have;
  }
  expect(have >= 5, "processes looked at");
}

// --- nobody waits for who reads it ---------------------------------------------------------------

void everything_works(Server& server) {
  Client client(server.address("talker"));
  expect_quick(
      "a flood", [&] { order(client, "flood 20000"); }, 5);
  expect_quick("set", [&] { expect_equal("set", server.ctl({"set", "echo", "max=7"}).code, 0); });
  expect_quick(
      "reload", [&] { expect_equal("reload", server.ctl({"reload"}).code, 0); }, 2);
  expect_quick(
      "recycle",
      [&] {
        expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
      },
      2);
  const pid_t supervisor = server.supervisor();
  kill(supervisor, SIGKILL);
  expect_quick(
      "a new supervisor",
      [&] {
        server.wait_until("another supervisor", kPatience,
                          [&] { return server.supervisor() != supervisor; });
        server.wait_for("/state", "running");
      },
      2);
  expect_quick("echo", [&] {
    Client another(server.address());
    expect(another.echoes("hello\n"), "a client of another pool");
  });
  order(client, "say x");
}

void nobody_reads_it(Outlet outlet) {
  Server server({PoolText{.workers = "min = 2; max = 8;"}, talker()}, outlet.options());
  everything_works(server);
  // Read again: it is said what is missing, and it goes on.
  outlet.wait_for(
      "lines were lost: they come faster than they are read, or than one may write them");
  server.ctl({"set", "echo", "max=6"});
  Client client(server.address("talker"));
  order(client, "say again");
  outlet.wait_for("again");
  order(client, "flood 20000");
  client.close();
  server.signal(SIGTERM);
  expect_quick(
      "TERM", [&] { expect_equal("exit code", server.wait_exit(), 0); }, 3);
}

void nobody_reads_the_pipe() { nobody_reads_it(Outlet::pipe()); }
void nobody_reads_the_socket() { nobody_reads_it(Outlet::socket()); }

void a_terminal_is_stopped() {
  Outlet outlet = Outlet::terminal();
  Server server({PoolText{.workers = "min = 2; max = 8;"}, talker()}, outlet.options());
  outlet.wait_for("ready: 2 of 2 pools running");
  {
    Client client(server.address("talker"));
    order(client, "say \x1b[31mred");
    outlet.wait_for("?[31mred");
  }
  tcflow(outlet.write_end(), TCOOFF);
  everything_works(server);
  tcflow(outlet.write_end(), TCOON);
  outlet.wait_for(
      "lines were lost: they come faster than they are read, or than one may write them");
  tcflow(outlet.write_end(), TCOOFF);
  Client client(server.address("talker"));
  order(client, "flood 20000");
  client.close();
  server.signal(SIGTERM);
  expect_quick(
      "TERM", [&] { expect_equal("exit code", server.wait_exit(), 0); }, 3);
  tcflow(outlet.write_end(), TCOON);
}

// Started with a pipe that is full already.
void a_full_pipe_at_the_start() {
  Outlet outlet = Outlet::pipe();
  fcntl(outlet.write_end(), F_SETFL, O_NONBLOCK);
  while (write(outlet.write_end(), "x", 1) == 1) {
  }
  fcntl(outlet.write_end(), F_SETFL, 0);
  Server server({PoolText{}}, outlet.options());
  Client client(server.address());
  expect(client.echoes("hello\n"), "echo");
  outlet.wait_for("ready: 1 of 1 pools running");
}

void systemd_does_not_read() {
  UniqueFd manager(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{AF_UNIX, {}};
  bind(manager.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t));
  socklen_t size = sizeof address;
  getsockname(manager.get(), reinterpret_cast<sockaddr*>(&address), &size);
  UniqueFd filler(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  size_t filled = 0;
  while (sendto(filler.get(), "X=1", 3, 0, reinterpret_cast<sockaddr*>(&address), size) == 3)
    ++filled;
  expect(filled > 0, "its queue is full");
  const std::string name(address.sun_path + 1, size - offsetof(sockaddr_un, sun_path) - 1);
  Server server({PoolText{}},
                {.in_child = [&] { setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1); }});
  expect_quick("set", [&] { expect_equal("set", server.ctl({"set", "echo", "max=7"}).code, 0); });
  expect_quick(
      "reload", [&] { expect_equal("reload", server.ctl({"reload"}).code, 0); }, 2);
  expect_contains("upgrade", server.ctl({"upgrade"}).err, "systemd does not read");
  std::string heard;
  auto hear = [&](const std::string& what) {
    wait_until("systemd hears " + what, kPatience, [&] {
      char text[4096];
      for (ssize_t n; (n = recv(manager.get(), text, sizeof text, 0)) > 0;)
        heard += std::string(text, static_cast<size_t>(n)) + "|";
      return heard.find(what) != heard.npos;
    });
    heard.erase(0, heard.find(what) + what.size());
  };
  hear("|READY=1");  // in this order
  hear("|RELOADING=1");
  hear("|READY=1");
  while (sendto(filler.get(), "X=1", 3, 0, reinterpret_cast<sockaddr*>(&address), size) == 3) {
  }
  server.signal(SIGTERM);
  expect_quick(
      "TERM", [&] { expect_equal("exit code", server.wait_exit(), 0); }, 2);
}

void the_journal_is_stopped() {
  auto machine = Machine::boot();
  if (!machine) return;
  std::string config = echo_on_machine("min = 1; max = 4;");
  config.insert(config.rfind(");"), R"(, { name = "talker"; listen = [ "127.0.0.1:7008" ];
    program = [ "/bin/sh", "-c", "read x; i=0; while [ $x = flood ] && [ $i -lt 20000 ]; do echo $x $i >&2; i=$((i+1)); done; echo '<3>'end of $x >&2; echo done" ];
    workers = { min = 1; max = 2; }; })");
  machine->configure(config);
  machine->must({"systemctl", "start", "preforkd.service"});
  machine->must({"systemctl", "kill", "-s", "STOP", "systemd-journald.service"});
  const std::string flood = "printf 'flood\\n' | nc -w 20 127.0.0.1 7008";
  for (int i = 0; i < 3; ++i)
    expect_equal("a program that floods", machine->exec({"sh", "-c", flood}).out, "done\n");
  expect_quick(
      "set",
      [&] {
        machine->must({"preforkctl", "set", "echo", "max=3"});
      },
      2);
  expect_quick(
      "recycle",
      [&] {
        machine->must({"preforkctl", "recycle", "echo"});
      },
      3);
  machine->expect_served("a client");
  machine->must({"systemctl", "kill", "-s", "CONT", "systemd-journald.service"});
  auto lines = [&](const std::vector<std::string>& matches) {
    std::vector<std::string> command{"journalctl", "-u",  "preforkd.service",
                                     "-o",         "cat", "--no-pager"};
    command.insert(command.end(), matches.begin(), matches.end());
    return machine->must(command);
  };
  wait_until("the journal says what is lost", kPatience, [&] {
    return lines({"PREFORKD_POOL=talker", "-p", "warning"}).find(" lines were lost") !=
           std::string::npos;
  });
  wait_until("a program's line with its priority", kPatience, [&] {
    machine->must({"sh", "-c", "printf 'calm\\n' | nc -w 20 127.0.0.1 7008"});
    return lines({"PREFORKD_POOL=talker", "-p", "err"}).find("end of calm\n") != std::string::npos;
  });
  machine->must({"systemctl", "kill", "-s", "STOP", "systemd-journald.service"});
  machine->must({"sh", "-c", flood});
  expect_quick(
      "stop",
      [&] {
        machine->must({"systemctl", "stop", "preforkd.service"});
      },
      5);
  machine->must({"systemctl", "kill", "-s", "CONT", "systemd-journald.service"});
  machine->expect_nothing_left();
}

// --- who floods ----------------------------------------------------------------------------------

void a_flood_is_the_flooders() {
  Outlet outlet = Outlet::pipe();
  Server server({talker("loud"), talker("quiet")}, outlet.options());
  Client quiet(server.address("quiet")), loud(server.address("loud"));
  loud.send("flood 50000\n");  // nobody reads
  for (int i = 0; i < 200; ++i) order(quiet, "say quiet " + std::to_string(i) + ".");
  expect_equal("the flood's end", loud.read_line(), "done");
  outlet.wait_for("quiet 199.");
  outlet.wait_for("pool loud: ");
  for (int i = 0; i < 200; ++i)
    expect(outlet.text().find("quiet " + std::to_string(i) + ".\n") != std::string::npos,
           "line " + std::to_string(i) + " of the quiet pool");
  for (size_t at = 0; (at = outlet.text().find("pool quiet: ", at)) != std::string::npos; ++at)
    expect(!std::isdigit(outlet.text()[at + 12]), "nothing of it was lost");
}

void a_line_without_end() {
  Server server({talker()});
  Client client(server.address("talker"));
  order(client, "long 10485760");
  server.wait_for_log("\npreforkd: pool talker: after it\n");
  expect_contains("the log", server.log(), "xxx... (10477568 bytes more)\n");
  expect(server.log().size() < 20'000, "the rest is not there");
}

// On a file system of its own, which nobody has mounted and which has room for so much. Appended to, as a log is.
UniqueFd file_on_small_disk(const char* size) {
  auto made = [](long fd, const char* step) {
    if (fd < 0) throw SysError(step, errno);
    return UniqueFd(static_cast<int>(fd));
  };
  const UniqueFd system = made(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), "fsopen");
  if (syscall(SYS_fsconfig, system.get(), FSCONFIG_SET_STRING, "size", size, 0) < 0 ||
      syscall(SYS_fsconfig, system.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    throw SysError("fsconfig", errno);
  const UniqueFd root = made(syscall(SYS_fsmount, system.get(), FSMOUNT_CLOEXEC, 0), "fsmount");
  return made(openat(root.get(), "log", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644), "open");
}

// Nobody has to wait, the log process goes on, and when there is room again it says how much is missing.
void a_full_disk() {
  if (!is_root()) return skip("needs a file system of its own");
  const UniqueFd log = file_on_small_disk("64k");
  auto text = [&] {
    std::string all(128 * 1024, '\0');
    const ssize_t n = pread(log.get(), all.data(), all.size(), 0);
    all.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return all;
  };
  Server server({talker()}, {.in_child = [&] { dup2(log.get(), 2); }});
  const pid_t writer = server.log_writer();
  Client client(server.address("talker"));
  // A little more than there is room for: what is under way yet fits in afterwards.
  order(client, "flood 700");
  server.wait_until("the disk is full", kPatience, [&] { return text().size() == 64 * 1024; });
  for (int i = 0; i < 3; ++i) order(client, "say not to be written");
  if (ftruncate(log.get(), 32 * 1024 + 7) < 0) throw SysError("ftruncate", errno);
  server.wait_until("what is missing is said", kPatience, [&] {
    order(client, "say there is room");
    return text().find(" lines were lost: No space left on device\n") != std::string::npos;
  });
  server.wait_until("what there is room for follows", kPatience, [&] {
    const std::string all = text();
    const size_t said = all.find(" lines were lost: ");
    return all.find("\npreforkd: pool talker: there is room\n", said) != std::string::npos;
  });
  expect_equal("the log process", server.log_writer(), writer);
}

// --- whatever dies -------------------------------------------------------------------------------

void the_log_process_dies() {
  Server server({talker()});
  Client client(server.address("talker"));
  for (int round = 0; round < 4; ++round) {
    const pid_t writer = server.log_writer();
    kill(writer, SIGKILL);
    for (int i = 0; i < 100; ++i) order(client, "say x");  // a SIGPIPE would end it
    server.wait_until("another log process", kPatience,
                      [&] { return server.log_writer() != writer; });
    order(client, "say round " + std::to_string(round));
    server.wait_for_log("\npreforkd: pool talker: round " + std::to_string(round) + "\n");
  }
  server.wait_for_log("what it had read and not written is lost");
}

// Taken over, it says that it lives without end: the daemon reads what it has asked for, and little more.
void the_log_process_floods() {
  if (!is_root()) return skip("only root can take another's descriptor");
  Server server({talker()});
  UniqueFd pongs = taken_from(server.log_writer(), 4);
  struct {
    uint32_t size = sizeof(LogPong), number = 0;
    LogPong pong{};
  } said;
  size_t taken = 0;
  const Nanoseconds until = monotonic_now() + kSecond;
  while (monotonic_now() < until) {
    pollfd p{pongs.get(), POLLOUT, 0};
    if (poll(&p, 1, 10) == 1 && write(pongs.get(), &said, sizeof said) == sizeof said) ++taken;
  }
  expect(taken < 65536 / sizeof said + 1000, "read: " + std::to_string(taken));
  Client client(server.address("talker"));
  order(client, "say after");
  server.wait_for_log("\npreforkd: pool talker: after\n");
}

// It does not have to be the daemon that has something to say.
void the_log_process_stands_still() {
  Server server({talker()});
  Client client(server.address("talker"));
  order(client, "say before");
  const pid_t writer = server.log_writer();
  kill(writer, SIGSTOP);
  client.send("flood 1000\n");  // more than a pipe holds
  expect_quick("set", [&] { expect_equal("set", server.ctl({"set", "talker", "max=3"}).code, 0); });
  expect_equal("the flood's end", client.read_line(), "done");
  server.wait_until("another log process", kPatience,
                    [&] { return server.log_writer() != writer; });
  order(client, "say after");
  server.wait_for_log("\npreforkd: pool talker: after\n");
  server.wait_for_log("flood 000999");
}

void the_daemon_dies() {
  Server server({talker()});
  Client client(server.address("talker"));
  order(client, "say before");
  server.signal(SIGKILL);
  server.wait_exit();
  for (int i = 0; i < 100; ++i) order(client, "say after " + std::to_string(i));
  server.wait_for_log("\npreforkd: pool talker: after 99\n");
  client.close();
  wait_until("nothing is left", kPatience, [&] { return server.left_behind().empty(); });
}

void the_end_is_there() {
  for (int i = 0; i < 5; ++i) {
    Server server({talker()});
    Client client(server.address("talker"));
    client.send("flood 500\n");
    client.send("say the last one\n");
    client.half_close();
    client.read_until_eof();
    server.signal(SIGTERM);
    expect_equal("exit code", server.wait_exit(), 0);
    expect_contains("the log", server.log(), "\npreforkd: pool talker: the last one\n");
    expect(server.log().ends_with("preforkd: stopped\n"), "the log's last line");
  }
}

// A start that fails says all that it has to say.
void a_failed_start_is_said() {
  const TestFolder folder;
  Server server({PoolText{.listen = "\"unix:" + folder.file("none/sock") + "\""}},
                {.wait_until_ready = false});
  expect(server.wait_exit() != 0, "it ends");
  expect_contains("the log", server.log(), "No such file or directory");
  expect_contains("the log", server.log(), "configuration: ");
}

void an_upgrade_renews_it() {
  Server server({talker()});
  Client client(server.address("talker"));
  const pid_t writer = server.log_writer();
  order(client, "say before");
  expect_equal("upgrade", server.ctl({"upgrade"}).code, 0);
  for (int i = 0; i < 500; ++i) order(client, "say during " + std::to_string(i) + ".");
  server.wait_until("another log process", kPatience,
                    [&] { return server.log_writer() != writer; });
  order(client, "say after");
  server.wait_for_log("\npreforkd: pool talker: after\n");
  server.wait_for_log("upgraded from");
  for (int i = 0; i < 500; ++i)
    expect_contains("the log", server.log(), "during " + std::to_string(i) + ".\n");
}

}  // namespace

Suite log_suite() {
  return {"log",
          {{"nobody empties the file", nobody_empties_the_file},
           {"nobody shuts the socket down", nobody_shuts_the_socket_down},
           {"nobody else has it", nobody_else_has_it},
           {"nobody speaks for others", nobody_speaks_for_others},
           {"nobody reads the pipe", nobody_reads_the_pipe},
           {"nobody reads the socket", nobody_reads_the_socket},
           {"a terminal is stopped", a_terminal_is_stopped},
           {"a full pipe at the start", a_full_pipe_at_the_start},
           {"systemd does not read", systemd_does_not_read},
           {"the journal is stopped", the_journal_is_stopped},
           {"a flood is the flooder's", a_flood_is_the_flooders},
           {"a line without end", a_line_without_end},
           {"a full disk", a_full_disk},
           {"the log process dies", the_log_process_dies},
           {"the log process floods", the_log_process_floods},
           {"the log process stands still", the_log_process_stands_still},
           {"the daemon dies", the_daemon_dies},
           {"the end is there", the_end_is_there},
           {"a failed start is said", a_failed_start_is_said},
           {"an upgrade renews it", an_upgrade_renews_it}}};
}

}  // namespace preforkd::system_test
