// What the control socket may be sent: nonsense, too much, nothing at all, and wishes of people without the
// right. Each gets its 4xx with {"error": "..."}; the pools do not notice.
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr char kLimitsPath[] = "/v1/pools/echo/limits";

PoolText pool_of_four() { return {.workers = "min = 4; max = 8; min_spare = 1; max_spare = 4;"}; }

// What must be as before whatever control went through. A connection is held all the time.
class Untouched {
 public:
  explicit Untouched(Server& server)
      : server_(server), client_(server.address()), supervisor_(server.supervisor()) {
    expect(client_.echoes("before\n"), "served before");
    server.wait_for("/workers/busy", 1);
    before_ = figures();
    workers_ = server.worker_pids();
  }

  void check(std::source_location where = std::source_location::current()) {
    expect(client_.echoes("after\n"), "the connection is served on", where);
    expect_equal("the figures", figures().dump(), before_.dump(), where);
    expect(server_.worker_pids() == workers_, "the workers are the same", where);
    expect_equal("the supervisor", server_.supervisor(), supervisor_, where);
  }

 private:
  Json figures() {
    Json pool = server_.pool(), some;
    for (const char* key : {"state", "generation", "workers", "limits", "connections", "lifetime"})
      some[key] = pool[key];
    return some;
  }

  Server& server_;
  Client client_;
  const pid_t supervisor_;
  Json before_;
  std::vector<pid_t> workers_;
};

void expect_error(const std::string& what, const Answer& answer, long status,
                  const std::string& part = "",
                  std::source_location where = std::source_location::current()) {
  expect_equal(what + ": status", answer.status, status, where);
  Json json = Json::parse(answer.body, nullptr, false);
  bool is_error = json.is_object() && json.contains("error") && json["error"].is_string();
  if (!expect(is_error, what + ": {\"error\": ...} and not " + answer.body, where)) return;
  expect_contains(what, json["error"].get<std::string>(), part, where);
}

// Sends bytes as they are, and reads until the server ends the connection.
Answer raw(Server& server, const std::string& bytes) {
  Client client("unix:" + server.socket());
  client.send(bytes);
  client.half_close();
  std::string text = client.read_until_eof();
  Answer answer;
  if (text.starts_with("HTTP/1.1 ")) answer.status = std::stol(text.substr(9));
  size_t body = text.find("\r\n\r\n");
  if (body != text.npos) answer.body = text.substr(body + 4);
  return answer;
}

std::string post(const std::string& path, const std::string& headers, const std::string& body) {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + "\r\n" + body;
}

// --- what is no request --------------------------------------------------------------------------

void garbage() {
  Server server({pool_of_four()});
  Untouched pool(server);
  std::string zeros(100'000, '\0'), bytes;
  for (int i = 0; i < 100'000; ++i) bytes += static_cast<char>(i * 7919 >> 3);
  for (const std::string& text :
       {std::string("hello\r\n\r\n"), zeros, bytes, std::string(200'000, 'A'),
        std::string("GET / HTTP/9.9\r\n\r\n"), std::string("\r\n\r\n\r\n"),
        "GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nA: " + std::string(100'000, 'a') + "\r\n\r\n"}) {
    Client client("unix:" + server.socket());
    try {
      client.send(text);
    } catch (const Failure&) {  // it had enough
    }
    client.close();
  }
  pool.check();
}

void half_a_request() {
  Server server({pool_of_four()});
  Untouched pool(server);
  std::vector<Client> silent;
  for (const char* text :
       {"", "GET", "GET /v1/status HTTP/1.1\r\n",
        "POST /v1/stop HTTP/1.1\r\nContent-Length: 2\r\n\r\n",
        "PATCH /v1/pools/echo/limits HTTP/1.1\r\nContent-Length: 50\r\n\r\n{\"min\""})
    silent.emplace_back("unix:" + server.socket()).send(text);
  pool.check();
  for (Client& client : silent) client.half_close();
  pool.check();
}

void idle_connections() {
  Server server({pool_of_four()});
  Untouched pool(server);
  std::vector<Client> idle;
  for (int i = 0; i < 300; ++i) idle.emplace_back("unix:" + server.socket());
  // Whoever asks finds a place among them; once control has taken so many that its queue is not full.
  server.wait_until("somebody is answered", kPatience, [&] { return !server.status().empty(); });
  pool.check();
  expect_equal("preforkctl among them", server.ctl({"status"}).code, 0);
}

// --- bodies --------------------------------------------------------------------------------------

// Sends a body of 100 MB piece by piece until the answer is there; like curl, which looks at once.
Answer send_hundred_megabytes(Server& server, bool chunked) {
  Client client("unix:" + server.socket());
  constexpr size_t kPiece = 1 << 16, kPieces = 1600;
  client.send("PATCH " + std::string(kLimitsPath) + " HTTP/1.1\r\nHost: x\r\n" +
              (chunked ? "Transfer-Encoding: chunked"
                       : "Content-Length: " + std::to_string(kPiece * kPieces)) +
              "\r\n\r\n");
  const std::string piece(kPiece, ' '), framed = "10000\r\n" + piece + "\r\n";
  for (size_t i = 0; i < kPieces && !client.has_answer(); ++i)
    client.send(chunked ? framed : piece);
  client.half_close();
  // Not to the end of the stream: that is a reset, where the other side has not read all that was sent.
  Answer answer;
  size_t length = 0;
  for (std::string line = client.read_line(); line != "\r"; line = client.read_line()) {
    if (line.starts_with("HTTP/1.1 ")) answer.status = std::stol(line.substr(9));
    if (line.starts_with("Content-Length: ")) length = std::stoul(line.substr(16));
  }
  answer.body = client.read_bytes(length);
  return answer;
}

long memory_of(pid_t pid) {
  std::string status = file_text("/proc/" + std::to_string(pid) + "/status");
  return std::stol(status.substr(status.find("VmHWM:") + 6));
}

void huge_bodies() {
  Server server({pool_of_four()});
  Untouched pool(server);
  const pid_t control = server.control();
  const long before = memory_of(control);
  expect_error("100 MB", send_hundred_megabytes(server, false), 413);
  expect_error("100 MB in chunks", send_hundred_megabytes(server, true), 413);
  const std::string most = "{\"min\":4" + std::string(64 * 1024 - 9, ' ') + "}";
  expect_equal("a body of 64 KiB", server.request("PATCH", kLimitsPath, most).status, 200);
  expect_error("a body of 64 KiB and one byte", server.request("PATCH", kLimitsPath, most + " "),
               413);
  expect_equal("control is the same", server.control(), control);
  expect(memory_of(control) - before < 10'000, "control did not keep what it refused");
  pool.check();
}

void bodies_that_are_wrong() {
  Server server({pool_of_four()});
  Untouched pool(server);
  struct {
    const char* body;
    long status;
    const char* part;
  } const kRows[] = {
      {"", 400, "not JSON"},
      {"min=3", 400, "not JSON"},
      {"{\"min\":3", 400, "not JSON"},
      {"\xff\xfe", 400, "not JSON"},
      {"null", 400, "not a JSON object"},
      {"[1]", 400, "not a JSON object"},
      {"\"min\"", 400, "not a JSON object"},
      {"{}", 400, "nothing to change"},
      {"{\"for\":5}", 400, "nothing to change"},
      {"{\"mim\":3}", 400, "\"mim\" is not a limit"},
      {"{\"min\":3,\"state\":\"stopped\"}", 400, "\"state\" is not a limit"},
      {"{\"min\":\"3\"}", 400, "min: expected"},
      {"{\"min\":true}", 400, "min: expected"},
      {"{\"min\":null}", 400, "min: expected"},
      {"{\"min\":[3]}", 400, "min: expected"},
      {"{\"min\":{}}", 400, "min: expected"},
      {"{\"min\":3.5}", 400, "min: expected"},
      {"{\"min\":-1}", 400, "min: expected"},
      {"{\"min\":4294967296}", 400, "min: expected"},
      {"{\"min\":1e400}", 400, ""},
      {"{\"min\":99999999999999999999999999}", 400, "min: expected"},
      {"{\"min\":NaN}", 400, "not JSON"},
      {"{\"min\":Infinity}", 400, "not JSON"},
      {"{\"shrink_after\":-1}", 400, "shrink_after: expected"},
      {"{\"shrink_after\":1e300}", 400, "shrink_after: expected"},
      {"{\"shrink_after\":\"soon\"}", 400, "shrink_after: expected"},
      {"{\"min\":3,\"for\":0}", 400, "for: expected"},
      {"{\"min\":3,\"for\":-1}", 400, "for: expected"},
      {"{\"min\":3,\"for\":\"600\"}", 400, "for: expected"},
      {"{\"min\":3,\"for\":999999999}", 409, "for is longer"},
      {"{\"min\":9}", 409, "min 9 is above max 8"},
      {"{\"max\":3}", 409, "min 4 is above max 3"},
      {"{\"min\":6,\"max\":5}", 409, "min 6 is above max 5"},
      {"{\"max\":0}", 400, "max: expected"},
      {"{\"max\":65537}", 400, "max: expected"},
      {"{\"max\":65536}", 409, "max 65536 is above"},
      {"{\"min_spare\":5}", 409, "min_spare"},
      {"{\"min_spare\":7,\"max_spare\":6}", 409, "min_spare"},
  };
  for (const auto& row : kRows)
    expect_error(row.body, server.request("PATCH", kLimitsPath, row.body), row.status, row.part);
  std::string deep = std::string(30'000, '[') + std::string(30'000, ']');
  expect_error("deep JSON", server.request("PATCH", kLimitsPath, deep), 400);
  deep = "{\"min\":" + std::string(30'000, '[');
  expect_error("deep and unfinished JSON", server.request("PATCH", kLimitsPath, deep), 400);
  for (const char* path : {"/v1/reload", "/v1/stop", "/v1/pools/echo/drain",
                           "/v1/pools/echo/resume", "/v1/pools/echo/recycle"})
    for (const char* body : {"nonsense", "[]", "{\"now\":true}"})
      expect_error(std::string(path) + " with " + body, server.request("POST", path, body), 400);
  pool.check();
}

// --- paths and methods ---------------------------------------------------------------------------

void paths_and_methods() {
  Server server({pool_of_four()});
  Untouched pool(server);
  for (const char* path : {"/v2", "/v1", "/v1/", "/v1/pools", "/v1/pools/", "/v1/pools/nobody",
                           "/v1/pools/nobody/workers", "/v1/pools/echo/", "/v1/pools/echo/shoes",
                           "/v1/pools//workers", "/v1/status/", "/%00", "/v1/pools/echo%2Fworkers",
                           "/v1/pools/%ff%fe", "/../../etc/passwd", "/favicon.ico"})
    expect_error(std::string("GET ") + path, server.request("GET", path), 404);
  expect_error("POST to no pool", server.request("POST", "/v1/pools/nobody/drain"), 404,
               "there is no pool 'nobody'");
  expect_error("PATCH of no pool",
               server.request("PATCH", "/v1/pools/nobody/limits", "{\"min\":1}"), 404);
  struct {
    const char *method, *path;
  } const kWrong[] = {
      {"POST", "/v1/status"},
      {"PUT", "/v1/pools/echo/limits"},
      {"POST", "/v1/pools/echo/limits"},
      {"GET", "/v1/stop"},
      {"DELETE", "/v1/pools/echo"},
      {"GET", "/v1/reload"},
      {"OPTIONS", "/v1/status"},
      {"PATCH", "/v1/pools/echo/drain"},
      {"DELETE", "/"},
      {"POST", "/metrics"},
      {"BREW", "/v1/status"},
  };
  for (const auto& row : kWrong)
    expect_error(std::string(row.method) + " " + row.path, server.request(row.method, row.path),
                 405);
  expect_error("resume of what runs", server.request("POST", "/v1/pools/echo/resume"), 409);
  expect_error("what is no method, sent raw",
               raw(server, post("/nothing", "Content-Length: 0\r\n", "")), 404);
  pool.check();
}

// --- rights --------------------------------------------------------------------------------------

Answer as_user(Server& server, const std::vector<std::string>& identity, const std::string& method,
               const std::string& path, const std::string& body = "") {
  std::vector<std::string> argv{"setpriv"};
  argv.insert(argv.end(), identity.begin(), identity.end());
  for (std::string word : {"curl", "-s", "--max-time", "30", "--unix-socket", "", "-X", "", "-w",
                           "\n%{http_code}", ""})
    argv.push_back(word);
  argv[argv.size() - 6] = server.socket();
  argv[argv.size() - 4] = method;
  argv.back() = "http://preforkd" + path;
  if (!body.empty()) argv.insert(argv.end(), {"-d", body});
  Outcome outcome = run(argv, 40);
  Answer answer;
  size_t status = outcome.out.rfind('\n');
  if (outcome.code != 0 || status == outcome.out.npos)
    throw Failure("curl as another user: " + outcome.err);
  answer.status = std::stol(outcome.out.substr(status + 1));
  answer.body = outcome.out.substr(0, status);
  return answer;
}

void rights() {
  if (!is_root()) return skip("only root can try as other users");
  const group* operators = getgrnam("games");
  const passwd* nobody = getpwnam("nobody");
  if (!operators || !nobody) return skip("there is no group games, or no user nobody");
  const std::string uid = "--reuid=" + std::to_string(nobody->pw_uid),
                    gid = "--regid=" + std::to_string(nobody->pw_gid),
                    games = std::to_string(operators->gr_gid);
  const std::vector<std::string> stranger{uid, gid, "--clear-groups"},
      member{uid, gid, "--groups=" + games},
      by_primary_group{uid, "--regid=" + games, "--clear-groups"};

  std::string config = config_of({pool_of_four()});
  config.replace(config.find("web = \"\";"), 9, "web = \"\"; group = \"games\";");
  Server server(config);
  Untouched pool(server);
  for (const char* path : {"/v1/status", "/v1/pools/echo", "/v1/pools/echo/workers",
                           "/v1/pools/echo/decisions", "/metrics", "/"})
    expect_equal(std::string("a stranger reads ") + path,
                 as_user(server, stranger, "GET", path).status, 200);
  const std::string refusal =
      "changes are for root, the daemon's user and members of control.group";
  for (const char* path : {"/v1/stop", "/v1/reload", "/v1/pools/echo/drain",
                           "/v1/pools/echo/resume", "/v1/pools/echo/recycle"})
    expect_error(std::string("a stranger wants ") + path, as_user(server, stranger, "POST", path),
                 403, refusal);
  expect_error("a stranger wants other limits",
               as_user(server, stranger, "PATCH", kLimitsPath, "{\"min\":4}"), 403, refusal);
  for (const auto& someone : {member, by_primary_group})
    expect_equal("a member of control.group may",
                 as_user(server, someone, "PATCH", kLimitsPath, "{\"min\":4}").status, 200);
  Outcome refused = run({"setpriv", uid, gid, "--clear-groups", built("preforkctl"), "--socket",
                         server.socket(), "drain", "echo"});
  expect_equal("preforkctl of a stranger", refused.code, 1);
  expect_contains("preforkctl of a stranger", refused.err, refusal);
  pool.check();
}

// --- control.web ---------------------------------------------------------------------------------

void web_only_reads() {
  TakenPort port;
  const std::string address = port.address();
  std::string config = config_of({pool_of_four()});
  config.replace(config.find("web = \"\";"), 9, "web = \"" + address + "\";");
  port.free();
  Server server(config);
  Untouched pool(server);
  auto ask = [&](const std::string& method, const std::string& path, const std::string& body = "") {
    Outcome outcome = run({"curl", "-s", "--max-time", "30", "-X", method, "-d", body, "-w",
                           "\n%{http_code}", "http://" + address + path});
    Answer answer;
    size_t status = outcome.out.rfind('\n');
    if (outcome.code != 0 || status == outcome.out.npos) throw Failure("curl: " + outcome.err);
    answer.status = std::stol(outcome.out.substr(status + 1));
    answer.body = outcome.out.substr(0, status);
    return answer;
  };
  for (const char* path : {"/v1/status", "/v1/pools/echo/workers", "/metrics", "/"})
    expect_equal(std::string("GET ") + path, ask("GET", path).status, 200);
  expect_error("an unknown path", ask("GET", "/nothing"), 404);
  for (const char* path :
       {"/v1/stop", "/v1/reload", "/v1/pools/echo/drain", "/v1/pools/echo/resume", "/v1/status"})
    expect_error(std::string("POST ") + path, ask("POST", path), 405);
  expect_error("PATCH", ask("PATCH", kLimitsPath, "{\"min\":1}"), 405);
  expect_error("PUT", ask("PUT", kLimitsPath, "{\"min\":1}"), 405);
  expect_error("DELETE", ask("DELETE", "/v1/pools/echo"), 405);
  pool.check();
}

}  // namespace

Suite control_abuse_suite() {
  return {"control_abuse",
          {{"garbage", garbage},
           {"half a request", half_a_request},
           {"300 idle connections", idle_connections},
           {"huge bodies", huge_bodies},
           {"bodies that are wrong", bodies_that_are_wrong},
           {"paths and methods", paths_and_methods},
           {"rights", rights},
           {"control.web only reads", web_only_reads}}};
}

}  // namespace preforkd::system_test
