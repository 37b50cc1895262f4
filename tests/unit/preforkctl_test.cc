// preforkctl: what its command line may say, and its conversation with a daemon that answers well,
// badly, or not at all. (What a person then reads: preforkctl_tables_test.cc.)
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <future>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "ctl/client.h"
#include "ctl/commands.h"
#include "ctl/tables.h"
#include "tests/unit/preforkctl_test.h"

void add_preforkctl_tests();
void add_preforkctl_tables_tests();

namespace preforkd {
namespace {

// A daemon with a script: it answers each connection with the next of its answers, byte for byte.
class ScriptedDaemon {
 public:
  // `crowded`: others fill its queue, and it takes nobody out before let_in().
  explicit ScriptedDaemon(std::vector<std::string> answers, bool crowded = false)
      : answers_(std::move(answers)) {
    char folder[] = "/tmp/preforkctl-test.XXXXXX";
    folder_ = mkdtemp(folder);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path().copy(address.sun_path, sizeof address.sun_path - 1);
    listener_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // A client that never comes ends the test and does not hang it.
    timeval limit{20, 0};
    setsockopt(listener_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
    listen(listener_.get(), crowded ? 0 : 8);
    if (crowded)
      fill_queue(address);
    else
      let_in();
    thread_ = std::thread([this] { serve(); });
  }
  ScriptedDaemon(const ScriptedDaemon&) = delete;
  ScriptedDaemon& operator=(const ScriptedDaemon&) = delete;
  ~ScriptedDaemon() {
    finish();
    unlink(path().c_str());
    rmdir(folder_.c_str());
  }

  std::string path() const { return folder_ + "/control.sock"; }
  Client client() const { return Client({path()}); }

  void let_in() { open_.set_value(); }

  // What the clients sent, when all of them were answered.
  const std::vector<std::string>& finish() {
    if (thread_.joinable()) thread_.join();
    return requests_;
  }

 private:
  void fill_queue(const sockaddr_un& address) {
    for (;;) {
      UniqueFd one(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      if (connect(one.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        break;
      crowd_.push_back(std::move(one));
    }
  }

  void serve() {
    open_.get_future().wait();
    for (size_t i = 0; i < crowd_.size(); ++i)
      UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    for (const std::string& answer : answers_) {
      UniqueFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!connection.is_open()) return;
      requests_.push_back(read_request(connection.get()));
      send(connection.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    }
  }

  static std::string read_request(int fd) {
    std::string request;
    size_t whole = std::string::npos;
    while (request.size() < whole) {
      char buffer[4096];
      ssize_t n = read(fd, buffer, sizeof buffer);
      if (n <= 0) break;
      request.append(buffer, static_cast<size_t>(n));
      size_t end = request.find("\r\n\r\n"), length = request.find("Content-Length: ");
      if (end == request.npos) continue;
      whole = end + 4;
      if (length < end) whole += std::stoul(request.substr(length + 16));
    }
    return request;
  }

  std::vector<std::string> answers_, requests_;
  std::string folder_;
  UniqueFd listener_;
  std::vector<UniqueFd> crowd_;
  std::promise<void> open_;
  std::thread thread_;
};

std::string http(int status, const std::string& body, std::optional<size_t> length = {}) {
  return "HTTP/1.1 " + std::to_string(status) + " X\r\nConnection: close\r\nContent-Length: " +
         std::to_string(length.value_or(body.size())) + "\r\n\r\n" + body;
}

// --- the command line ---------------------------------------------------------------------------

std::string patch_error(std::vector<std::string> pairs,
                        std::optional<std::string> for_seconds = {}) {
  return error_of<UsageError>([&] { limits_body(pairs, for_seconds); });
}

void test_limits_patch() {
  std::vector<std::string> pairs = {"min=4", "max=64", "shrink_after=2.5"};
  expect_text(limits_body(pairs, "600").dump(),
              R"({"min":4,"max":64,"shrink_after":2.5,"for":600.0})");
  expect_text(patch_error({"mim=4"}), "unknown limit 'mim', did you mean 'min'?");
  expect_text(patch_error({"colour=4"}), "unknown limit 'colour'");
  expect_text(patch_error({"min"}), "'min': expected KEY=VALUE");
  expect_text(patch_error({"min=1", "min=1"}), "min: given twice");
  expect_text(patch_error({"min=1"}, "0"), "--for 0: expected a number of seconds above 0");
  expect_text(patch_error({"min=1"}, "1h"), "--for 1h: expected a number of seconds above 0");
  for (const char* value :
       {"", "-1", "+1", " 1", "1 ", "1.5", "4294967296", "65537", "0x10", "many"})
    expect_text(patch_error({std::string("min=") + value}),
                std::string("min=") + value + ": expected a whole number from 0 to 65536");
  expect_text(patch_error({"max=0"}), "max=0: expected a whole number from 1 to 65536");
  for (const char* value : {"", "-0.5", "0", "0.001", "nan", "inf", "1e999", "2s"})
    expect_text(patch_error({std::string("shrink_after=") + value}),
                std::string("shrink_after=") + value +
                    ": expected a number of seconds from 0.01 to 315360000");
}

void test_arguments() {
  auto error = [](const char* name, Arguments arguments) {
    return error_of<UsageError>([&] { check_arguments(find_command(name), arguments); });
  };
  expect_text(error("staus", {}), "unknown command 'staus', did you mean 'status'?");
  expect_text(error("workers", {}), "expected: workers POOL");
  expect_text(error("stop", {{"echo"}}), "expected: stop");
  expect_text(error("status", {{"a", "b"}}), "expected: status [POOL]");
  expect_text(error("set", {{"echo"}}), "expected: set POOL KEY=VALUE...");
  expect_text(error("status", {{""}}), "status: an argument is empty");
  expect_text(error("drain", {{"echo"}, false, "5"}), "drain: takes no --for, only set does");
  expect_text(error("status", {}), "(no error)");
  expect_text(error("set", {{"echo", "min=1"}, true, "5"}), "(no error)");
}

// Whoever adds a command documents it.
void test_documentation() {
  for (const Command& command : commands()) {
    std::string name = command.name;
    CU_ASSERT_TRUE(contains(help(), "\n  " + name + ' '));
    CU_ASSERT_TRUE(contains(help(command), "Usage: preforkctl " + name));
  }
  std::ifstream file("doc/preforkctl.1");
  std::string page{std::istreambuf_iterator<char>(file), {}};
  CU_ASSERT_FALSE_FATAL(page.empty());
  for (const Command& command : commands())
    CU_ASSERT_TRUE(contains(page, std::string("\n.It Cm ") + command.name));
}

void test_usual_sockets() {
  auto sockets = [](unsigned uid, const char* runtime, const char* session) {
    std::string all;
    for (const std::string& path : usual_sockets(uid, [&](const char* name) {
           return std::string_view(name) == "RUNTIME_DIRECTORY" ? runtime
                  : std::string_view(name) == "XDG_RUNTIME_DIR" ? session
                                                                : nullptr;
         }))
      all += path + '\n';
    return all;
  };
  const std::string system = "/run/preforkd/control.sock\n";
  expect_text(sockets(0, nullptr, "/run/user/0"), system);
  expect_text(sockets(0, "/run/preforkd", nullptr), system);
  expect_text(sockets(0, "/run/a:/run/b", nullptr), "/run/a/control.sock\n" + system);
  expect_text(sockets(4242042, nullptr, "/run/user/7"),
              "/run/user/7/preforkd/control.sock\n/tmp/preforkd-4242042/control.sock\n" + system);
  expect_text(sockets(4242042, "", ""), "/tmp/preforkd-4242042/control.sock\n" + system);
}

// --- the conversation ---------------------------------------------------------------------------

std::string run(const char* name, const Arguments& arguments, const Client& client) {
  return find_command(name).run(arguments, client);
}

void test_requests() {
  ScriptedDaemon daemon({http(200, status_of(kPool)), http(200, kPool),
                         http(200, R"({"ok":true,"message":"2 pools \u001b[1mreloaded"})"),
                         http(200, R"({"ok":true})"), http(200, "a 1\n\x1b[2J\xff\n")});
  Client client = daemon.client();
  CU_ASSERT_TRUE(contains(run("status", {}, client), "\necho  running"));
  expect_text(run("set", {{"echo", "min=4", "max=256"}, false, "600"}, client),
              "echo: min 4, max 256, min_spare 2, max_spare 8, shrink_after 2.5 s\n"
              "for 10m, then as before\n");
  expect_text(run("reload", {}, client), "2 pools \\x1b[1mreloaded\n");
  expect_text(run("drain", {{"../a b"}}, client), "draining ../a b\n");
  expect_text(run("metrics", {}, client), "a 1\n\\x1b[2J\\xff\n");

  const auto& requests = daemon.finish();
  CU_ASSERT_EQUAL_FATAL(requests.size(), 5);
  CU_ASSERT_TRUE(requests[0].starts_with("GET /v1/status HTTP/1.1\r\n"));
  CU_ASSERT_TRUE(requests[1].starts_with("PATCH /v1/pools/echo/limits HTTP/1.1\r\n"));
  CU_ASSERT_TRUE(
      requests[1].ends_with("\r\n\r\n"
                            R"({"min":4,"max":256,"for":600.0})"));
  CU_ASSERT_TRUE(contains(requests[1], "Content-Type: application/json\r\n"));
  CU_ASSERT_TRUE(requests[2].starts_with("POST /v1/reload HTTP/1.1\r\n"));
  CU_ASSERT_TRUE(requests[3].starts_with("POST /v1/pools/..%2Fa%20b/drain HTTP/1.1\r\n"));
  CU_ASSERT_TRUE(requests[4].starts_with("GET /metrics HTTP/1.1\r\n"));
}

void test_json() {
  ScriptedDaemon daemon({http(200, R"({"b":1,"a":"\u001b\u009bü"})"), http(200, status_of("")),
                         http(404, "{}"), http(404, "{}")});
  expect_text(run("status", {{}, true}, daemon.client()),
              "{\n  \"b\": 1,\n  \"a\": \"\\u001b\\u009b\\u00fc\"\n}\n");
  CU_ASSERT_TRUE(contains(run("version", {{}, true}, daemon.client()), "\"preforkd\": \"0.1.0\""));
  // One that gives no answer.
  CU_ASSERT_TRUE(contains(run("version", {{}, true}, daemon.client()), "\"preforkd\": null"));
  const std::string text = run("version", {}, daemon.client());
  CU_ASSERT_TRUE(text.starts_with("preforkctl ") &&
                 contains(text, "\npreforkd ?, the daemon answered HTTP 404"));
}

void test_refusals() {
  ScriptedDaemon daemon({http(404, R"({"error":"no pool 'x'"})"), http(500, "<html>"),
                         http(409, std::string(100'000, '[')), http(302, "{}")});
  auto reason = [&] {
    return error_of<std::runtime_error>([&] { daemon.client().get("/v1/pools/x"); });
  };
  expect_text(reason(), "no pool 'x'");
  expect_text(reason(), "the daemon answered HTTP 500");
  expect_text(reason(), "the daemon answered HTTP 409");
  expect_text(reason(), "the daemon answered HTTP 302");
}

void test_bad_answers() {
  constexpr char kNoJson[] = "read the daemon's answer: it is not JSON";
  struct Case {
    std::string answer, reason;
  };
  const std::vector<Case> cases = {
      {"HTTP/1.1 200", "GET /v1/status: the daemon's answer was cut short"},
      {"hello\r\n\r\n", "GET /v1/status: what listens there does not speak HTTP"},
      {http(200, "{\"a\":", 5000), "GET /v1/status: the daemon's answer was cut short"},
      {http(200, ""), kNoJson},
      {http(200, "{\"a\":"), kNoJson},
      {http(200, "{\"a\":\"\xff\"}"), kNoJson},
      {http(200, std::string("\0\x1b", 2)), kNoJson},
      {http(200, "1e999"), kNoJson},
      {http(200, std::string(1'000'000, '[')), "read the daemon's answer: it is nested too deeply"},
      {http(200, std::string(Client::kMaxAnswer + 1, ' ')),
       "GET /v1/status: the daemon's answer is longer than 64 MiB"},
  };
  std::vector<std::string> answers;
  for (const Case& c : cases) answers.push_back(c.answer);
  ScriptedDaemon daemon(answers);
  for (const Case& c : cases)
    expect_text(error_of<std::runtime_error>([&] { run("status", {}, daemon.client()); }),
                c.reason);
}

constexpr char kCrowded[] =
    "HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 21\r\n\r\n{\"error\":\"no places\"}";

// What was turned away, and what may be done twice, is asked again; what may have been done is not.
void test_asks_again() {
  const std::string stopping = http(503, R"({"error":"stopping"})"), good = http(200, "{}");
  const std::string closed = ": the daemon closed the connection before it had answered";
  ScriptedDaemon daemon({"", kCrowded, good, "", good, kCrowded, "", kCrowded, good, stopping});
  Client client = daemon.client();
  expect_text(client.get("/v1/status"), "{}");
  expect_text(client.patch("/v1/pools/a/limits", "{}"), "{}");
  expect_text(error_of<std::runtime_error>([&] { client.post("/v1/reload"); }),
              "POST /v1/reload" + closed);
  expect_text(client.post("/v1/stop"), "{}");
  expect_text(error_of<std::runtime_error>([&] { client.get("/v1/status"); }), "stopping");
  const auto& requests = daemon.finish();
  CU_ASSERT_EQUAL_FATAL(requests.size(), 10);
  CU_ASSERT_TRUE(requests[2].starts_with("GET ") && requests[3].starts_with("PATCH "));
  CU_ASSERT_TRUE(requests[6].starts_with("POST /v1/reload"));
  CU_ASSERT_TRUE(requests[7].starts_with("POST /v1/stop"));
}

bool is_in_connect(pid_t thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/syscall");
  long number = -1;
  return file >> number && number == SYS_connect;
}

void test_waits_in_the_queue() {
  ScriptedDaemon daemon({http(200, "{}")}, /*crowded=*/true);
  std::atomic<pid_t> thread = 0;
  std::string answer;
  std::thread asker([&] {
    thread = gettid();
    answer = error_of<std::exception>([&] { daemon.client().post("/v1/stop"); });
  });
  const Nanoseconds deadline = monotonic_now() + Client::kPatience / 2;
  while (!is_in_connect(thread) && monotonic_now() < deadline) std::this_thread::yield();
  CU_ASSERT_TRUE(is_in_connect(thread));
  daemon.let_in();
  asker.join();
  expect_text(answer, "(no error)");
}

void test_no_daemon() {
  ScriptedDaemon daemon({http(200, "{}")});
  std::string nowhere = "/nonexistent/control.sock", long_path(200, 'x');
  // The first that answers is the daemon.
  CU_ASSERT_EQUAL(Client({nowhere, long_path, daemon.path()}).get("/v1/status"), "{}");
  daemon.finish();
  Client nobody({nowhere, long_path});
  expect_text(error_of<NoDaemon>([&] { nobody.post("/v1/stop"); }),
              "no daemon at " + nowhere + ": No such file or directory\nno daemon at " + long_path +
                  ": File name too long");
  expect_text(run("version", {{}, true}, nobody).substr(0, 17), "{\n  \"preforkctl\":");
}

}  // namespace
}  // namespace preforkd

void add_preforkctl_tests() {
  using namespace preforkd;
  CU_pSuite suite = CU_add_suite("preforkctl", nullptr, nullptr);
  struct Row {
    const char* name;
    CU_TestFunc test;
  };
  constexpr Row kTests[] = {
      {"limits are checked before they are sent", test_limits_patch},
      {"arguments are counted", test_arguments},
      {"every command is documented", test_documentation},
      {"where the socket may be", test_usual_sockets},
      {"requests are what the daemon expects", test_requests},
      {"--json is the daemon's own", test_json},
      {"refusals give the daemon's reason", test_refusals},
      {"bad answers are told apart", test_bad_answers},
      {"what was not heard is asked again", test_asks_again},
      {"it waits where the queue is full", test_waits_in_the_queue},
      {"no daemon there", test_no_daemon},
  };
  for (const Row& row : kTests) CU_add_test(suite, row.name, row.test);
  add_preforkctl_tables_tests();
}
