// Addresses that get another user by a reload: of another pool, of the same one, two that are swapped. Whoever connects
// after the reload was answered is served by the new user's processes, whatever the old user's do; who waited before
// is served by those he waited for. What cannot be had is said, and had as soon as it can be.
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <future>

#include "base/clock.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

// The program says who it runs as, when it has been sent a line.
PoolText pool_of(const char* user, const std::string& name, const std::string& listen,
                 const std::string& workers = "min = 1; max = 8;") {
  return {.name = name,
          .listen = listen,
          .serves = "program = [ \"/bin/sh\", \"-c\", \"read x; id -un\" ];",
          .workers = workers,
          .timeouts = "start = 5.0; drain = 10.0;",
          .more = std::string("user = \"") + user + "\";"};
}

// The same by a handler, whose worker serves the next one who waits.
PoolText handler_of(const char* user, const std::string& name, const std::string& listen) {
  PoolText pool = pool_of(user, name, listen, "min = 1; max = 1; min_spare = 0;");
  pool.serves = attacking_handler();
  return pool;
}

// Of a client who has asked for the pid.
std::string who_answers(Client& client) {
  const passwd* user = getpwuid(uid_of(std::stoi(client.read_line())));
  client.close();
  return user ? user->pw_name : "";
}

std::string quoted(const std::string& address) { return "\"" + address + "\""; }

std::string who_serves(const std::string& address) {
  Client client(address);
  client.send("who\n");
  return client.read_line();
}

// Asked again as long as control says so: one that is about to be replaced does, after an upgrade.
Answer reload(Server& server, const std::vector<PoolText>& pools) {
  server.write_config(config_of(pools));
  Answer answer;
  server.wait_until("the reload is taken", kPatience, [&] {
    answer = server.request("POST", "/v1/reload");
    return answer.status != 503;
  });
  return answer;
}

void expect_reloaded(Server& server, const std::vector<PoolText>& pools,
                     std::source_location where = std::source_location::current()) {
  const Answer answer = reload(server, pools);
  expect(answer.status == 200, "reload: " + answer.body, where);
}

void expect_served_by(const std::string& user, const std::string& address,
                      std::source_location where = std::source_location::current()) {
  for (int i = 0; i < 8; ++i) expect_equal(address, who_serves(address), user, where);
}

// Between shutdown and listen a client may be refused; nothing else is lost.
void under_load() {
  if (!can_attack()) return;
  TakenPort port;
  port.free();
  const PoolText alices = pool_of(kAlice, "alice", port.quoted());
  const PoolText bobs = pool_of(kBob, "bob", "\"127.0.0.1:0\"");
  Server server({alices, bobs});
  enum : int { kAny, kOnlyAlice, kOnlyBob };
  std::atomic<int> owner{kOnlyAlice};
  std::atomic<uint64_t> refused{0}, served{0}, of_others{0};
  std::atomic<bool> is_over{false};
  auto ask_again_and_again = [&] {
    while (!is_over) {
      const int before = owner;
      auto client = Client::try_connect(port.address());
      if (!client && ++refused) continue;
      client->send("who\n");
      const std::string who = client->read_line();
      ++served;
      of_others += (before == kOnlyAlice && owner == before && who != kAlice) ||
                   (before == kOnlyBob && owner == before && who != kBob) ||
                   (who != kAlice && who != kBob);
    }
    return true;
  };
  std::vector<std::future<bool>> clients;
  for (int i = 0; i < 4; ++i)
    clients.push_back(std::async(std::launch::async, ask_again_and_again));
  PoolText none = alices, both = bobs;
  none.listen = "\"127.0.0.1:0\"";
  both.listen = bobs.listen + ", " + port.quoted();
  for (int round = 0; round < 3; ++round) {
    owner = kAny;
    expect_reloaded(server, {none, both});
    owner = kOnlyBob;
    expect_served_by(kBob, port.address());
    owner = kAny;
    expect_reloaded(server, {alices, bobs});
    owner = kOnlyAlice;
    expect_served_by(kAlice, port.address());
  }
  is_over = true;
  for (auto& client : clients) expect(client.get(), "every client that was let in was served");
  expect_equal("clients that another user's processes have served", of_others.load(), 0u);
  expect(refused.load() <= 4 * 6, std::to_string(refused) + " refused in 6 moves");
  expect(served.load() > 50, std::to_string(served) + " served");
}

// The worker is busy, so there is a queue when the reload begins, which alice's finish; who comes then waits for bob.
void who_waits() {
  if (!can_attack()) return;
  TakenPort port;
  port.free();
  Server server({handler_of(kAlice, "alice", port.quoted())});
  Client busy(port.address());
  server.wait_for("/workers/busy", 1, "alice");
  std::vector<Client> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.emplace_back(port.address());
    waiting.back().send("pid\n");
  }
  server.write_config(config_of({pool_of(kBob, "bob", port.quoted())}));
  Client control = begin_request(server, "POST", "/v1/reload");
  server.wait_for_log("reloaded ");
  server.wait_for("/state", "degraded", "bob");
  auto late = std::async(std::launch::async, [&] { return who_serves(port.address()); });
  expect_contains("an upgrade meanwhile", server.request("POST", "/v1/upgrade").body,
                  "a reload is under way");
  expect_contains("another reload meanwhile", server.request("POST", "/v1/reload").body,
                  "a reload is under way");
  expect(!control.has_answer(), "the reload is not answered before the address has moved");
  busy.send("pid\n");
  expect_equal("who was served", who_answers(busy), kAlice);
  for (Client& client : waiting) expect_equal("who waited", who_answers(client), kAlice);
  expect_contains("the answer", control.read_line(), " 200 ");
  expect_equal("who came late", late.get(), kBob);
  expect_served_by(kBob, port.address());
  server.wait_for("/state", "running", "bob");
}

// It moves without a worker's consent: nobody who accepts for alice holds it up for longer than 6 s.
void whoever_stays() {
  if (!can_attack()) return;
  TakenPort port;
  port.free();
  Server server({handler_of(kAlice, "alice", port.quoted())});
  Client busy(port.address());
  server.wait_for("/workers/busy", 1, "alice");
  Client waiting(port.address());
  const Nanoseconds began = monotonic_now();
  expect_reloaded(server, {pool_of(kBob, "bob", port.quoted())});
  expect(monotonic_now() - began < 9 * kSecond, "in time");
  expect_served_by(kBob, port.address());
  busy.send("pid\n");
  expect_equal("who was served is served to the end", who_answers(busy), kAlice);
}

void the_same_pool() {
  if (!can_attack()) return;
  const std::string listen = "\"127.0.0.1:0\", \"unix:@DIR@/sock\", \"[::1]:0\"";
  Server server({pool_of(kAlice, "echo", listen)});
  std::vector<std::string> addresses;
  for (size_t i = 0; i < 3; ++i) addresses.push_back(server.address("echo", i));
  const pid_t daemon = server.pid();
  for (const char* user : {kBob, kAlice, kBob}) {
    const Json before = server.pool()["listen_inodes"];
    expect_reloaded(server, {pool_of(user, "echo", listen)});
    for (size_t i = 0; i < 3; ++i) {
      expect_equal("the address is what it was", server.address("echo", i), addresses[i]);
      expect_served_by(user, addresses[i]);
    }
    expect_equal("recycle", server.request("POST", "/v1/pools/echo/recycle").status, 200);
    expect_served_by(user, addresses[0]);
    // Whose it is is known to the next image, too.
    const Answer upgrade = server.request("POST", "/v1/upgrade");
    expect(upgrade.status == 200, "an upgrade right after: " + upgrade.body);
    server.wait_until_ready();
    for (const std::string& address : addresses) expect_served_by(user, address);
  }
  expect_equal("the daemon", server.pid(), daemon);
  struct stat s {};
  expect(stat(server.folder().file("sock").c_str(), &s) == 0 && (s.st_mode & 0777) == 0666,
         "the socket's file is there, for everybody");
}

// A pool that nobody serves gives its address away at once, and gets one for when it is resumed.
void of_a_drained_pool() {
  if (!can_attack()) return;
  TakenPort port;
  port.free();
  Server server({pool_of(kAlice, "echo", port.quoted())});
  expect_equal("drain", server.request("POST", "/v1/pools/echo/drain").status, 200);
  server.wait_for("/state", "stopped");
  expect_reloaded(server, {pool_of(kBob, "echo", port.quoted())});
  auto waits = std::async(std::launch::async, [&] { return who_serves(port.address()); });
  expect_equal("resume", server.request("POST", "/v1/pools/echo/resume").status, 200);
  expect_equal("who serves", waits.get(), kBob);
}

// Nobody is there until the first one comes: the daemon watches the new socket.
void on_demand() {
  if (!can_attack()) return;
  TakenPort port;
  port.free();
  const std::string none = "min = 0; max = 4; min_spare = 0; max_spare = 1; shrink_after = 0.1;";
  Server server({pool_of(kAlice, "alice", port.quoted(), none)});
  expect_equal("who serves", who_serves(port.address()), kAlice);
  expect_reloaded(server, {pool_of(kBob, "bob", port.quoted(), none)});
  server.wait_for("/workers/total", 0, "bob");
  expect_equal("who serves", who_serves(port.address()), kBob);
}

// The daemon watches a socket for the pool that has it, and it becomes another's, of the same user.
void on_demand_of_the_same_user() {
  TakenPort one, other;
  one.free();
  other.free();
  auto pool_on = [](const std::string& name, const std::string& listen) {
    return PoolText{
        .name = name,
        .listen = listen,
        .workers = "min = 0; max = 4; min_spare = 0; max_spare = 0; shrink_after = 0.1;"};
  };
  const std::string both = one.quoted() + ", " + other.quoted();
  const std::vector<std::vector<PoolText>> steps = {
      {pool_on("a", one.quoted()), pool_on("b", other.quoted())},
      {pool_on("renamed", one.quoted()), pool_on("b", other.quoted())},  // another name
      {pool_on("renamed", other.quoted()), pool_on("b", one.quoted())},  // swapped
      {pool_on("renamed", both)},                                        // one for both
      {pool_on("first", other.quoted()), pool_on("renamed", one.quoted())},
      {pool_on("renamed", one.quoted()), pool_on("last", other.quoted())}};
  Server server(steps[0]);
  for (const auto& pools : steps) {
    expect_reloaded(server, pools);
    for (int i = 0; i < 2; ++i) {
      for (const PoolText& pool : pools) server.wait_for("/workers/total", 0, pool.name);
      for (const TakenPort* port : {&one, &other}) {
        Client client(port->address());
        expect(client.echoes("who?\n"), "an echo");
      }
    }
  }
}

void swapped() {
  if (!can_attack()) return;
  TakenPort a, b;
  a.free();
  b.free();
  const std::string path = "unix:@DIR@/a", other = "unix:@DIR@/b";
  auto pools = [&](bool is_swapped) -> std::vector<PoolText> {
    const std::string first = a.quoted() + ", " + quoted(path);
    const std::string second = b.quoted() + ", " + quoted(other);
    return {pool_of(kAlice, "alice", is_swapped ? second : first),
            pool_of(kBob, "bob", is_swapped ? first : second)};
  };
  Server server(pools(false));
  for (const bool is_swapped : {true, false, true}) {
    expect_reloaded(server, pools(is_swapped));
    for (const std::string& address : {a.address(), "unix:" + server.folder().file("a")})
      expect_served_by(is_swapped ? kBob : kAlice, address);
    for (const std::string& address : {b.address(), "unix:" + server.folder().file("b")})
      expect_served_by(is_swapped ? kAlice : kBob, address);
  }
}

// Its name is taken until the last process that has the socket is gone.
void an_abstract_name() {
  if (!can_attack()) return;
  const std::string name = "unix:@" + name_for_left();
  Server server({pool_of(kAlice, "alice", quoted(name))});
  Client busy(name);
  server.wait_for("/workers/busy", 1, "alice");
  const Answer answer = reload(server, {pool_of(kBob, "bob", quoted(name))});
  expect_equal("status", answer.status, 409);
  expect_contains("the answer", answer.body,
                  "reloaded, but pool bob: bind " + name + ": Address already in use");
  expect_contains("why", server.pool("bob")["reason"], "Address already in use");
  busy.send("who\n");
  expect_equal("who was served", busy.read_line(), kAlice);
  server.wait_for("/state", "running", "bob");
  expect_served_by(kBob, name);
}

// bob may not make a file in alice's folder. His other address is served all the while, whoever dies.
void what_cannot_be_had() {
  if (!can_attack()) return;
  const std::string listen = "\"unix:@DIR@/alice/sock\"", others = "\"127.0.0.1:0\"";
  const PoolText bobs = pool_of(kBob, "bob", others);
  Server server({bobs});
  const std::string folder = alices_folder(server);
  expect_reloaded(server, {pool_of(kAlice, "alice", listen), bobs});
  const std::string other = server.address("bob");
  const PoolText wants_both = pool_of(kBob, "bob", others + ", " + listen);
  Answer answer = reload(server, {wants_both});
  expect_equal("status", answer.status, 409);
  expect_contains("the answer", answer.body, "reloaded, but pool bob: bind unix:" + folder);
  expect_contains("the answer", answer.body, "let daemon write to the folder");
  expect_contains("the answer", answer.body, "Permission denied: it is not served");
  server.wait_for("/state", "degraded", "bob");
  expect_served_by(kBob, other);
  expect_contains("an upgrade", server.request("POST", "/v1/upgrade").body, "Permission denied");
  // Who served before is gone: others do, without that address.
  kill(server.supervisor("bob"), SIGKILL);
  expect_served_by(kBob, other);
  // It can be taken back, or be had later.
  expect_reloaded(server, {bobs});
  server.wait_for("/state", "running", "bob");
  expect_served_by(kBob, other);
  expect_reloaded(server, {pool_of(kAlice, "alice", listen), bobs});
  // What else that reload has changed is in force, as soon as it is ready.
  PoolText changed = wants_both;
  changed.serves = "program = [ \"/bin/sh\", \"-c\", \"read x; echo changed\" ];";
  expect_equal("status", reload(server, {changed}).status, 409);
  server.wait_until("the change", kPatience, [&] { return who_serves(other) == "changed"; });
  server.wait_for_one_generation("bob");
  expect_served_by("changed", other);
  chmod(folder.c_str(), 0777);
  server.wait_for("/state", "running", "bob");
  expect_served_by("changed", other);
  expect_served_by("changed", "unix:" + folder + "/sock");
}

// The same for a pool that has dropped an address in the same reload, so that its old generation had to leave.
void others_are_served() {
  if (!can_attack()) return;
  TakenPort stays, goes;
  stays.free();
  goes.free();
  const std::string listen = "\"unix:@DIR@/alice/sock\"";
  const PoolText bobs = pool_of(kBob, "bob", stays.quoted() + ", " + goes.quoted());
  Server server({bobs});
  const std::string folder = alices_folder(server);
  expect_reloaded(server, {bobs, pool_of(kAlice, "alice", listen)});
  const Answer answer = reload(server, {pool_of(kBob, "bob", stays.quoted() + ", " + listen)});
  expect_equal("status", answer.status, 409);
  expect_served_by(kBob, stays.address());
  expect(!Client::try_connect(goes.address()), "the other one is given up");
  chmod(folder.c_str(), 0777);
  server.wait_for("/state", "running", "bob");
  expect_served_by(kBob, stays.address());
  expect_served_by(kBob, "unix:" + folder + "/sock");
}

// Nothing is changed, and who has it keeps it.
void what_is_refused() {
  if (!can_attack()) return;
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  expect_equal("bind", bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  expect_equal("listen", listen(fd.get(), 16), 0);
  TakenPort port;
  port.free();
  auto shared = [&](const char* user) {
    PoolText pool = pool_of(user, "shared", port.quoted());
    pool.more += " tcp = { reuse_port = true; };";
    return pool;
  };
  const PoolText of_systemd = pool_of(kAlice, "web", "\"systemd:web\"");
  Server server({of_systemd, shared(kAlice)}, {.inherited = {fd.get()}, .inherited_names = "web"});
  const std::string web = server.address("web");
  Answer answer = reload(server, {pool_of(kBob, "web", "\"systemd:web\""), shared(kAlice)});
  expect_equal("status", answer.status, 409);
  expect_contains("the answer", answer.body, "or restart preforkd, which ends all of them before");
  answer = reload(server, {of_systemd, shared(kBob)});
  expect_equal("status", answer.status, 409);
  expect_contains("the answer", answer.body, "with tcp.reuse_port they could go on listening");
  PoolText plain = shared(kBob);
  plain.more = pool_of(kBob, "", "").more;
  expect_equal("status", reload(server, {of_systemd, plain}).status, 409);
  expect_served_by(kAlice, web);
  expect_served_by(kAlice, port.address());
}

// Alice serves one client and another waits; her address is to be bob's with the next reload.
struct Leaving {
  TakenPort port;
  Server server{(port.free(), config_of({handler_of(kAlice, "alice", port.quoted())}))};
  Client busy{port.address()}, waiting{port.address()};

  Leaving() {
    server.wait_for("/workers/busy", 1, "alice");
    waiting.send("pid\n");
    server.write_config(config_of({pool_of(kBob, "bob", port.quoted())}));
  }
};

// A stop while an address is on its way.
void stopped_meanwhile() {
  if (!can_attack()) return;
  Leaving stage;
  auto& [port, server, busy, waiting] = stage;
  server.signal(SIGHUP);
  server.wait_for("/state", "degraded", "bob");
  server.signal(SIGTERM);
  server.wait_for_log("stopping: ");
  busy.send("pid\n");
  expect_equal("who was served", who_answers(busy), kAlice);
  expect_equal("who waited", who_answers(waiting), kAlice);
  expect_equal("exit code", server.wait_exit(), 0);
}

// The supervisor that waits for the address dies: its successor waits, too.
void a_supervisor_dies_meanwhile() {
  if (!can_attack()) return;
  Leaving stage;
  auto& [port, server, busy, waiting] = stage;
  Client control = begin_request(server, "POST", "/v1/reload");
  server.wait_for("/state", "degraded", "bob");
  const pid_t first = server.supervisor("bob");
  kill(first, SIGKILL);
  server.wait_until("another one is there", kPatience, [&, &server = stage.server] {
    const pid_t now = supervisor_of(server, "bob");
    return now > 0 && now != first;
  });
  busy.close();
  expect_equal("who waited", who_answers(waiting), kAlice);
  expect_contains("the answer", control.read_line(), " 200 ");
  expect_served_by(kBob, port.address());
  server.wait_for("/state", "running", "bob");
}

}  // namespace

Suite moves_suite() {
  return {"moves",
          {{"under load", under_load},
           {"who waits", who_waits},
           {"whoever stays", whoever_stays},
           {"the same pool", the_same_pool},
           {"of a drained pool", of_a_drained_pool},
           {"on demand", on_demand},
           {"on demand, of the same user", on_demand_of_the_same_user},
           {"swapped", swapped},
           {"an abstract name", an_abstract_name},
           {"what cannot be had", what_cannot_be_had},
           {"others are served", others_are_served},
           {"what is refused", what_is_refused},
           {"stopped meanwhile", stopped_meanwhile},
           {"a supervisor dies meanwhile", a_supervisor_dies_meanwhile}}};
}

}  // namespace preforkd::system_test
