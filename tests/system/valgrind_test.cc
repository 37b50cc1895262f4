// Daemon, control and preforkctl under valgrind, through start, reload and stop: no error, nothing lost, no
// descriptor over. (The supervisor runs as always: what it and its workers do is too slow under valgrind to be
// served by, and AddressSanitizer has it.)
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "ipc/channel.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/pidfds.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr double kSlow = 60;  // seconds, for what takes one or two on an idle machine

// Makes the calls of tests/system/pidfds.h.
class PidfdBroker {
 public:
  explicit PidfdBroker(const std::string& path)
      : listener_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
        listen(listener_.get(), 16) < 0)
      throw SysError("listen on " + path, errno);
    thread_ = std::jthread([this] { run(); });
  }
  ~PidfdBroker() { shutdown(listener_.get(), SHUT_RDWR); }

 private:
  void run() {
    for (;;) {
      Channel client(UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
      if (!client.is_open()) return;
      pollfd asked{client.fd(), POLLIN, 0};
      Channel::Datagram datagram;
      poll(&asked, 1, -1);
      client.receive(datagram);
      if (auto call = datagram.as<PidfdCall>()) make(*call, datagram.descriptor.get(), client);
    }
  }

  static void make(const PidfdCall& call, int pidfd, Channel& client) {
    const bool opens = call.number == SYS_pidfd_open;
    const long made = opens ? syscall(SYS_pidfd_open, call.value, 0)
                            : syscall(SYS_pidfd_send_signal, pidfd, call.value, nullptr, 0);
    const PidfdResult result{made < 0 ? errno : 0};
    UniqueFd opened(opens ? static_cast<int>(made) : -1);
    client.send_struct(result, opened.get());
  }

  UniqueFd listener_;
  std::jthread thread_;
};

// A process that forks keeps its report to itself: the child's would have the name of that which the exec makes.
std::vector<std::string> valgrind(const std::string& reports) {
  const auto suppressions = std::filesystem::absolute(__FILE__).parent_path() / "valgrind.supp";
  return {"valgrind",
          "--leak-check=full",
          "--errors-for-leak-kinds=definite,indirect,possible",
          "--track-fds=yes",
          "--suppressions=" + std::string(suppressions),
          "--vgdb=no",
          "--child-silent-after-fork=yes",
          "--trace-children=yes",
          "--trace-children-skip=*/preforkd-supervisor*",
          "--error-exitcode=99",
          "--log-file=" + reports + "/%p"};
}

// That of one process. Those that ended by exec, under valgrind no more, have none.
void expect_clean(const std::string& report) {
  const std::string shown = "\n" + report;
  expect(report.find("ERROR SUMMARY: 0 errors") != report.npos, "no errors: " + shown);
  // (But Landlock's, which the daemon asks for.)
  const size_t known = occurrences(report, "syscall: 444") + occurrences(report, "syscall: 446");
  expect_equal("system calls that valgrind does not know: " + shown,
               occurrences(report, "unhandled"), known);
  const size_t opened = occurrences(report, "Open "), inherited = occurrences(report, "<inherited");
  expect(opened == inherited, "no descriptor is over: " + shown);
}

// Of so many processes of this program.
void expect_clean_reports(const std::string& folder, const std::string& program, size_t least,
                          size_t most) {
  size_t found = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    const std::string report = file_text(file.path());
    if (!occurrences(report, "SUMMARY") || !occurrences(report, "/" + program + " ")) continue;
    ++found;
    expect_clean(report);
  }
  expect(found >= least && found <= most,
         "reports about " + program + ": " + std::to_string(found));
}

// Valgrind reads what it runs as the user that runs it, who may not (daemon/launch.h).
std::string readable_copy(const TestFolder& folder) {
  for (const char* name : {"preforkd", "preforkd-supervisor", "preforkd-supervisor-static",
                           "preforkd-control", "preforkd-log"}) {
    std::filesystem::copy_file(built(name), folder.file(name));
    chmod(folder.file(name).c_str(), 0755);
  }
  std::filesystem::create_symlink(built("handlers"), folder.file("handlers"));
  return folder.file("preforkd");
}

void start_reload_stop() {
  if (are_sanitized()) return skip("a program has valgrind or the sanitizers");
  TestFolder folder;
  const std::string reports = folder.file("reports");
  mkdir(reports.c_str(), 0777);
  chmod(reports.c_str(), 01777);  // control runs as another user
  PidfdBroker broker(folder.file("broker"));
  const PoolText echo{.workers = "min = 2; max = 8;"},
      cat{.name = "cat", .serves = "program = [ \"/bin/cat\" ];"};
  Server server({echo, cat}, {.wait_until_ready = false,
                              .in_child =
                                  [&] {
                                    setenv("PIDFD_BROKER", folder.file("broker").c_str(), 1);
                                    setenv("LD_PRELOAD",
                                           built("tests/system/handlers/pidfds.so").c_str(), 1);
                                  },
                              .program = readable_copy(folder),
                              .under = valgrind(reports)});
  server.wait_until_ready(kSlow);
  expect(Client(server.address()).echoes("hello\n"), "echo");
  expect(Client(server.address("cat")).echoes("hello\n"), "cat");

  auto reload = [&](const std::vector<PoolText>& pools, long status) {
    server.write_config(config_of(pools));
    Answer answer = server.request("POST", "/v1/reload");
    expect_equal("reload: " + answer.body, answer.status, status);
  };
  PoolText other = echo, broken = echo, added = cat;
  other.serves = unruly();
  broken.serves = unruly("fail_preload = true;");
  added.name = "added";
  reload({broken, cat}, 409);
  reload({other, added}, 200);
  Client client(server.address());
  expect(pid_serving(client) > 0, "the new handler serves");

  for (const char* path : {"/", "/v1/status", "/v1/pools/echo", "/v1/pools/echo/workers",
                           "/v1/pools/echo/decisions", "/metrics", "/v1/pools/echo/nothing"})
    expect(server.request("GET", path).status != 0, std::string("GET ") + path);
  expect_equal("limits", server.request("PATCH", "/v1/pools/echo/limits", R"({"min":3})").status,
               200);
  expect_equal("recycle", server.request("POST", "/v1/pools/echo/recycle").status, 200);
  std::vector<std::string> ctl = valgrind(reports);
  ctl.insert(ctl.end(), {built("preforkctl"), "--socket", server.socket(), "status"});
  expect_equal("preforkctl", run(ctl, kSlow).code, 0);

  client.close();
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(kSlow), 0);
  expect_clean_reports(reports, "preforkd", 3, 3);  // the daemon, and a loader for each reload
  expect_clean_reports(reports, "preforkd-control", 1, 1);
  expect_clean_reports(reports, "preforkctl", 1, 1);
  expect_clean_reports(reports, "preforkd-log", 0,
                       1);  // killed if it takes longer than a second to end
}

}  // namespace

Suite valgrind_suite() { return {"valgrind", {{"start, reload, stop", start_reload_stop}}}; }

}  // namespace preforkd::system_test
