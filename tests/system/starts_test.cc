// Starts where one pool's files or addresses are not what they should be, by its user's doing: the others serve at once,
// that one is degraded with the reason, and serves when it is put right. Where no pool is well, the start has failed.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "base/fd.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

namespace fs = std::filesystem;

// Alice's, of whom everything is changed before a start and put right after it.
class Files {
 public:
  Files() { put_right(); }

  std::string alice() const { return root_.file("alice"); }
  std::string handler() const { return alice() + "/echo.so"; }
  std::string program() const { return alice() + "/cat"; }
  std::string folder() const { return alice() + "/folder"; }
  std::string socket() const { return alice() + "/sock"; }

  void put_right() const {
    for (const std::string& path : {alice(), folder()}) {
      fs::create_directory(path);
      chmod(path.c_str(), 0755);
      give_to(kAlice, path);
    }
    put(built("handlers/echo.so"), handler());
    put("/bin/cat", program());
  }
  void put(const std::string& from, const std::string& to) const {
    fs::copy_file(from, to + ".new", fs::copy_options::overwrite_existing);
    give_to(kAlice, to + ".new");
    fs::rename(to + ".new", to);
  }

  PoolText pool(const std::string& more = "", const std::string& listen = "\"127.0.0.1:0\"") const {
    return {.name = "alice",
            .listen = listen,
            .serves = "handler = \"" + handler() + "\";",
            .workers = "min = 1; max = 2;",
            .timeouts = "start = 2.0; drain = 2.0;",
            .more = std::string("user = \"") + kAlice + "\"; " + more};
  }
  PoolText program_pool() const {
    PoolText text = pool();
    text.serves = "program = [ \"" + program() + "\" ];";
    return text;
  }

 private:
  TestFolder root_;
};

void expect_only_bob(Server& server, const std::string& reason, const std::string& what) {
  server.wait_until_ready();
  expect(Client(server.address("bob")).echoes("hello\n"), "bob serves: " + what);
  const Json alice = server.pool("alice");
  expect_equal("the state: " + what, alice["state"], "degraded");
  expect_contains("the reason: " + what, alice["reason"], reason);
  server.wait_for_log("error: pool alice: degraded: ");
  server.wait_for_log("ready: 1 of 2 pools running; alice is degraded: ");
  expect_contains("the log: " + what, server.log(), reason);
}

void expect_alice(Server& server, const std::string& address = "") {
  server.wait_for("/state", "running", "alice");
  expect(Client(address.empty() ? server.address("alice") : address).echoes("hello\n"),
         "alice serves");
  expect_equal("bob", server.pool("bob")["state"], "running");
}

struct Case {
  const char* what;
  PoolText pool;
  const char* reason;
  std::function<void()> spoil;
};

void files() {
  if (!can_attack()) return;
  const Files of;
  const std::vector<Case> cases = {
      {"no handler", of.pool(), "No such file or directory", [&] { fs::remove(of.handler()); }},
      {"junk", of.pool(), "echo.so", [&] { of.put("/etc/passwd", of.handler()); }},
      {"a pipe", of.pool(), "not a regular file",
       [&] {
         fs::remove(of.handler());
         mkfifo(of.handler().c_str(), 0666);
       }},
      {"a closed folder", of.pool(), "Permission denied", [&] { chmod(of.alice().c_str(), 0); }},
      {"no program", of.program_pool(), "No such file", [&] { fs::remove(of.program()); }},
      {"a program that may not run", of.program_pool(), "Permission denied",
       [&] { chmod(of.program().c_str(), 0644); }},
      {"no working directory", of.pool("working_directory = \"" + of.folder() + "\";"),
       "No such file or directory", [&] { fs::remove(of.folder()); }}};
  for (const Case& one : cases) {
    one.spoil();
    const std::string config = config_of({one.pool, bobs_pool()});
    Server server(config);
    expect_only_bob(server, one.reason, one.what);
    server.write_config(config);
    expect_equal("a check is as strict as ever",
                 run({built("preforkd"), "-t", "-c", server.folder().file("preforkd.conf")}).code,
                 78);
    of.put_right();
    expect_alice(server);
  }
}

// Its check takes 10 s, and its supervisor is killed after timeouts.start.
void a_handler_that_hangs() {
  if (!can_attack()) return;
  const Files of;
  of.put(built("tests/system/handlers/hangs.so"), of.handler());
  Server server({of.pool(), bobs_pool()}, {.wait_until_ready = false});
  server.wait_until_ready(40);
  expect_only_bob(server, "", "a constructor that hangs");
  of.put_right();
  expect_alice(server);
}

UniqueFd listening_at(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::strncpy(at.sun_path, path.c_str(), sizeof at.sun_path - 1);
  expect_equal("bind", bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  expect_equal("listen", listen(fd.get(), 16), 0);
  return fd;
}

// One of two that she has: the other one is served meanwhile.
void a_path() {
  if (!can_attack()) return;
  const Files of;
  const std::string address = "unix:" + of.socket();
  for (const bool is_socket : {false, true}) {
    UniqueFd strangers;
    if (is_socket)
      strangers = listening_at(of.socket());
    else
      of.put("/etc/passwd", of.socket());
    Server server({of.pool("", "\"127.0.0.1:0\", \"" + address + "\""), bobs_pool()});
    expect_only_bob(server, "bind " + address, is_socket ? "a stranger's socket" : "a file");
    expect(Client(server.address("alice")).echoes("hello\n"), "the other address is served");
    expect(fs::exists(of.socket()), "what is there is left alone");
    fs::remove(of.socket());
    expect_alice(server, address);
    expect(Client(server.address("alice")).echoes("hello\n"), "the other address is served");
  }
}

// Her only one. Others are changed meanwhile, and nobody waits for it.
void a_port() {
  if (!can_attack()) return;
  const Files of;
  TakenPort port;
  const PoolText alices = of.pool("", port.quoted());
  PoolText bobs = bobs_pool();
  Server server({alices, bobs});
  const std::string reason = "bind " + port.address() +
                             ": Address already in use: it is not served, and tried again each "
                             "second; end who has it (a process, or a connection";
  expect_only_bob(server, reason, "a port");
  bobs.workers = "min = 3; max = 8;";
  server.write_config(config_of({alices, bobs}));
  for (int i = 0; i < 3; ++i) {
    const Answer answer = server.request("POST", "/v1/reload");
    expect(answer.status == 200, "a reload of another pool: " + answer.body);
  }
  server.wait_for("/limits/min", 3, "bob");
  expect_equal("the state", server.pool("alice")["state"], "degraded");
  port.free();
  expect_alice(server, port.address());
}

// Both at once, and which of them is put right first.
void a_handler_and_a_port() {
  if (!can_attack()) return;
  const Files of;
  TakenPort port;
  fs::remove(of.handler());
  Server server({of.pool("", port.quoted()), bobs_pool()});
  expect_only_bob(server, "", "both");  // the reason is that of what was tried last
  expect_contains("the log", server.log(), "No such file or directory");
  expect_contains("the log", server.log(), "bind " + port.address() + ": Address already in use");
  port.free();
  server.wait_for_log("listening on " + port.address());
  expect_equal("the state", server.pool("alice")["state"], "degraded");
  of.put_right();
  expect_alice(server, port.address());
}

// Whoever has had it has shut it down, or connected with it: it is systemd's, and bound still.
void a_socket_of_systemds() {
  if (!can_attack()) return;
  const Files of;
  for (const bool is_connected : {false, true}) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    TakenPort port, elsewhere;
    port.free();
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(static_cast<uint16_t>(port.number()));
    expect_equal("bind", bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    expect_equal("listen", listen(fd.get(), 16), 0);
    expect_equal("shutdown", shutdown(fd.get(), SHUT_RDWR), 0);
    at.sin_port = htons(static_cast<uint16_t>(elsewhere.number()));
    // (Some kernels refuse that of a socket that has listened: then nobody can do it.)
    if (is_connected && connect(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) < 0) {
      expect_equal("why it does not connect", errno, EINVAL);
      break;
    }
    Server server({of.pool("", "\"systemd:web\""), bobs_pool()},
                  {.inherited = {fd.get()}, .inherited_names = "web"});
    server.wait_until_ready();
    expect_alice(server, port.address());
    server.wait_for_log("was shut down by a process that had it: it listens again");
  }
}

// No pool is well: it is as if there were one only.
void all_of_them() {
  if (!can_attack()) return;
  const Files of;
  const std::string other = "unix:/no-such-folder/bob", hers = "unix:/no-such-folder/alice";
  fs::remove(of.handler());
  PoolText bobs = bobs_pool();
  bobs.serves = "handler = \"no_such\";";
  {
    Server server({of.pool(), bobs}, {.wait_until_ready = false});
    expect_refused_start(server, 78, "3: handler: load " + of.handler() + ": No such file");
    expect_contains("the other reason", server.log(), "no_such.so");
  }
  {
    Server server({of.pool(), bobs_pool()}, {.wait_until_ready = false});
    server.wait_until_ready();
  }
  bobs = bobs_pool();
  bobs.listen = "\"" + other + "\"";
  {
    Server server({of.pool(), bobs}, {.wait_until_ready = false});
    expect_refused_start(server, 71, "error: pool bob: bind " + other + ": No such file");
    expect_contains("the other reason", server.log(), "handler: load " + of.handler());
  }
  of.put_right();
  Server server({of.pool("", "\"" + hers + "\""), bobs}, {.wait_until_ready = false});
  expect_refused_start(server, 71, "error: pool bob: bind " + other + ": No such file");
  expect_contains("the other reason", server.log(), "error: pool alice: bind " + hers);
}

// A standby, whose address comes when it takes over; or somebody else has it yet.
void nothing_but_an_address() {
  for (const bool is_elsewhere : {true, false}) {
    TakenPort port;
    const std::string address =
        is_elsewhere ? "192.0.2.7:" + std::to_string(port.number()) : port.address();
    const std::string reason =
        "bind " + address + ": " +
        (is_elsewhere ? "Cannot assign requested address" : "Address already in use");
    Server server({PoolText{.name = "late", .listen = "\"" + address + "\""}},
                  {.wait_until_ready = false});
    server.wait_for_log("ready: 0 of 1 pools running; late is degraded: " + reason);
    server.wait_for_log("error: pool late: degraded: " + reason);
    const Json late = server.pool("late");
    expect_equal("the state", late["state"], "degraded");
    expect_contains("the reason", late["reason"], reason);
    if (!is_elsewhere) {
      port.free();
      server.wait_for("/state", "running", "late");
      expect(Client(address).echoes("hello\n"), "it serves");
    }
    server.signal(SIGTERM);
    expect_equal("exit code", server.wait_exit(), 0);
  }
}

// What another pool's user has broken does not keep this one from waiting.
void an_address_and_another_pools_handler() {
  if (!can_attack()) return;
  const Files of;
  TakenPort port;
  fs::remove(of.handler());
  PoolText bobs = bobs_pool();
  bobs.listen = port.quoted();
  Server server({of.pool(), bobs}, {.wait_until_ready = false});
  server.wait_for_log("ready: 0 of 2 pools running; alice is degraded: ");
  expect_contains("the log", server.log(), "bob is degraded: bind " + port.address());
  port.free();
  server.wait_for("/state", "running", "bob");
  expect(Client(port.address()).echoes("hello\n"), "bob serves");
  of.put_right();
  expect_alice(server);
}

}  // namespace

Suite starts_suite() {
  return {"starts",
          {{"files", files},
           {"a handler that hangs", a_handler_that_hangs},
           {"a path", a_path},
           {"a port", a_port},
           {"a handler and a port", a_handler_and_a_port},
           {"a socket of systemd's", a_socket_of_systemds},
           {"all of them", all_of_them},
           {"nothing but an address", nothing_but_an_address},
           {"an address, and another pool's handler", an_address_and_another_pools_handler}}};
}

}  // namespace preforkd::system_test
