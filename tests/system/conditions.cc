#include "tests/system/conditions.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace preforkd::system_test {

TakenPort::TakenPort() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(fd_.get(), generic, size) < 0 || listen(fd_.get(), 16) < 0 ||
      getsockname(fd_.get(), generic, &size) < 0)
    throw SysError("take a port", errno);
  number_ = ntohs(address.sin_port);
}

bool are_thorough() {
  const char* text = std::getenv("THOROUGH");
  return text && std::strcmp(text, "1") == 0;
}

bool are_sanitized() {
  static const bool found =
      file_text(built("preforkd-supervisor")).find("__asan_init") != std::string::npos;
  return found;
}

bool is_root() { return geteuid() == 0; }

void skip(const std::string& reason) { std::printf("(skipped: %s) ", reason.c_str()); }

namespace {
void must(bool done, const char* what) {
  if (done) return;
  perror(what);
  _exit(126);
}
}  // namespace

void become_nobody() {
  if (!is_root()) return;
  const passwd* nobody = getpwnam("nobody");
  must(nobody != nullptr, "look up nobody");
  must(setgroups(0, nullptr) == 0, "setgroups");
  must(setresgid(nobody->pw_gid, nobody->pw_gid, nobody->pw_gid) == 0, "setresgid");
  must(setresuid(nobody->pw_uid, nobody->pw_uid, nobody->pw_uid) == 0, "setresuid");
}

void limit_descriptors(unsigned count) {
  rlimit limit{count, count};
  must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit RLIMIT_NOFILE");
}

void expect_refused_start(Server& server, int code, const std::string& text,
                          std::source_location where) {
  expect_equal("exit code", server.wait_exit(), code, where);
  expect_contains("the log", server.log(), text, where);
  expect(!std::filesystem::exists(server.socket()), "no control socket is left", where);
  expect_no_segment_left(where);
}

void expect_no_segment_left(std::source_location where) {
  wait_until(
      "nothing of preforkd's is left in /dev/shm", 5,
      [] {
        for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
          if (entry.path().filename().string().starts_with("preforkd-")) return false;
        return true;
      },
      where);
}

void expect_exact_figures(Server& server, const std::string& pool, uint64_t accepted,
                          std::source_location where) {
  Json c, lifetime;
  auto look = [&] {
    Json now = server.pool(pool);
    c = now["connections"], lifetime = now["lifetime"];
    return c["active"] == 0 && c["accepted"] >= accepted;
  };
  try {
    server.wait_until("every connection is over", kPatience, look, where);
  } catch (const Failure&) {
    expect(false, "every connection is over: " + c.dump(), where);
  }
  expect_equal("accepted", c["accepted"].get<uint64_t>(), accepted, where);
  uint64_t ended = 0;
  for (const char* how : {"served", "failed", "aborted"}) ended += c[how].get<uint64_t>();
  expect_equal("served + failed + aborted", ended, accepted, where);
  expect_equal("crashed", lifetime["crashed"].get<uint64_t>(), 0u, where);
}

void run_at_once(const std::vector<std::vector<std::string>>& commands, const TestFolder& folder,
                 double seconds, std::source_location where) {
  std::vector<pid_t> running;
  std::vector<std::string> outputs;
  for (const auto& argv : commands) {
    outputs.push_back(folder.file(std::to_string(outputs.size()) + ".out"));
    UniqueFd out(open(outputs.back().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    running.push_back(spawn({.argv = argv, .out = out.get(), .err = out.get()}));
  }
  for (size_t i = 0; i < running.size(); ++i) {
    int code = -1;
    try {
      code = exit_code(wait_for_child(running[i], seconds));
    } catch (const Failure& e) {
      kill(running[i], SIGKILL);
      wait_for_child(running[i], kPatience);
    }
    expect_equal(
        commands[i][0] + " number " + std::to_string(i) + " (" + file_text(outputs[i]) + ")", code,
        0, where);
  }
}

void give_to_nobody(const std::string& path) {
  if (is_root()) expect_equal("chown", run({"chown", "-R", "nobody", path}).code, 0);
}

size_t occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++count;
  return count;
}

}  // namespace preforkd::system_test
