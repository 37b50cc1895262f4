#include "tests/system/trust.h"
#include "tests/system/conditions.h"

#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/clock.h"
#include "base/error.h"

namespace preforkd::system_test {

bool can_attack() {
  if (!is_root()) return skip("only root can run pools as other users"), false;
  if (are_sanitized()) return skip("attackers and sanitizers are in each other's way"), false;
  for (const char* user : {kAlice, kBob, kStranger})
    if (!getpwnam(user)) return skip(std::string("there is no user ") + user), false;
  return true;
}

std::string attacking_program() {
  return std::filesystem::absolute(built("tests/system/programs/trust"));
}

std::string attacking_handler(const std::string& settings) {
  return "handler = \"@HANDLERS@/trust.so\"; settings = { " + settings + " };";
}

std::string script_that_attacks_by(const std::string& program) {
  return R"(import os, subprocess
import preforkd

def answer(connection):
    for line in connection.makefile("rb"):
        for fd in os.listdir("/proc/self/fd"):
            try:
                os.set_inheritable(int(fd), True)
            except OSError:  # that which the list was read from
                pass
        program = [")" +
         program + R"(", line.decode().strip()]
        done = subprocess.run(program, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        connection.sendall(done.stdout)

preforkd.serve(answer)
)";
}

std::string attacking_script() {
  static const TestFolder folder;
  return "serve = [ \"python3\", \"" +
         folder.write("attack.py", script_that_attacks_by(attacking_program())) + "\" ];";
}

PoolText attacker(const std::string& name, const std::string& serves, const std::string& more) {
  return {.name = name,
          .serves = serves,
          .workers = "min = 2; max = 8; min_spare = 1; max_spare = 4;",
          .timeouts = "start = 2.0; drain = 2.0;",
          .more = std::string("user = \"") + kAlice + "\"; " + more};
}

PoolText bobs_pool(const std::string& name) {
  return {.name = name,
          .workers = "min = 2; max = 8;",
          .timeouts = "start = 2.0; drain = 2.0;",
          .more = std::string("user = \"") + kBob + "\";"};
}

void give_to(const std::string& user, const std::string& path) {
  const passwd* entry = getpwnam(user.c_str());
  if (!entry || lchown(path.c_str(), entry->pw_uid, entry->pw_gid) < 0)
    throw SysError("give " + path + " to " + user, errno);
}

std::string alices_folder(Server& server) {
  const std::string path = server.folder().file("alice");
  std::filesystem::create_directory(path);
  give_to(kAlice, path);
  return path;
}

std::string name_for_left() {
  return "left" + std::to_string(monotonic_now() / kMillisecond % 1'000'000'000);
}

bool is_left(const std::string& name) {
  return file_text("/proc/net/unix").find(" @" + name + "\n") != std::string::npos;
}

std::vector<pid_t> processes_named(const std::string& comm) {
  std::vector<pid_t> all;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid > 0 && file_text(entry.path() / "comm") == comm + "\n" && is_running(pid))
      all.push_back(pid);
  }
  return all;
}

bool is_supervisor(pid_t pid) {
  return file_text("/proc/" + std::to_string(pid) + "/comm") == "preforkd-superv\n";
}

pid_t supervisor_of(Server& server, const std::string& pool) {
  for (pid_t pid : children_of(server.pid()))
    if (is_supervisor(pid) && title_of(pid) == "preforkd: supervisor " + pool) return pid;
  throw Failure("pool " + pool + " has no supervisor");
}

uid_t uid_of(pid_t pid) {
  const std::string status = file_text("/proc/" + std::to_string(pid) + "/status");
  const size_t at = status.find("\nUid:");
  if (at == status.npos) throw Failure("process " + std::to_string(pid) + " is gone");
  return static_cast<uid_t>(std::stoul(status.substr(at + 5)));
}

// --- what must hold ------------------------------------------------------------------------------

Client begin_request(Server& server, const std::string& method, const std::string& path,
                     const std::string& body) {
  Client control("unix:" + server.socket());
  control.send(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n" +
               "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
               "\r\nConnection: close\r\n\r\n" + body);
  return control;
}

void set_in_time(Server& server, const std::string& pool, double seconds,
                 std::source_location where) {
  Client control =
      begin_request(server, "PATCH", "/v1/pools/" + pool + "/limits", "{\"shrink_after\": 30}");
  std::string answer;
  try {
    answer = control.read_line(seconds);
  } catch (const Failure&) {
    throw Failure("set on pool " + pool + ": no answer in " + std::to_string(seconds) + " s",
                  where);
  }
  expect_contains("the answer to set on pool " + pool, answer, " 200 ", where);
}

void expect_steerable(Server& server, const std::string& pool, double for_seconds,
                      std::source_location where) {
  const Nanoseconds end = monotonic_now() + from_seconds(for_seconds);
  const timespec pause = to_timespec(50 * kMillisecond);
  do {
    set_in_time(server, pool, 1, where);
    nanosleep(&pause, nullptr);
  } while (monotonic_now() < end);
}

void expect_stops(Server& server, double seconds, std::source_location where) {
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(seconds), 0, where);
}

// --- a PID namespace -----------------------------------------------------------------------------

namespace {

pid_t in_namespace = 0;  // of the process that waits for it

void pass_on(int number) { kill(in_namespace, number); }

// In the child: it becomes two, and the second one goes on, as PID 1.
void split_off() {
  if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0) _exit(77);
  in_namespace = fork();
  if (in_namespace == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
        mount("proc", "/proc", "proc", 0, nullptr) < 0)
      _exit(77);
    return;
  }
  for (int number : {SIGTERM, SIGHUP, SIGINT}) signal(number, pass_on);
  int status = 0;
  while (waitpid(in_namespace, &status, 0) < 0 && errno == EINTR) {
  }
  _exit(exit_code(status));
}

}  // namespace

ServerOptions with_private_pids() { return {.wait_until_ready = false, .in_child = split_off}; }

void wait_until_running(Server& server, size_t pools) {
  server.wait_until("all pools are running", kPatience, [&] {
    const Json all = server.status()["pools"];
    return all.size() == pools && std::all_of(all.begin(), all.end(), [](const Json& pool) {
             return pool["state"] == "running";
           });
  });
}

}  // namespace preforkd::system_test
