// Addresses that overlap, come later, or have names: a reload between 127.0.0.1 and all addresses loses nobody; what this
// machine does not have yet is listened on where that is asked for; of a name it is all of its addresses.
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <future>
#include <iterator>
#include <set>
#include <sstream>

#include "tests/system/load.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

std::string at(const std::string& host, const TakenPort& port) {
  return host + ":" + std::to_string(port.number());
}
std::string quoted(const std::string& address) { return "\"" + address + "\""; }

PoolText pool_on(const std::string& listen, const std::string& name = "echo") {
  return {.name = name,
          .listen = listen,
          .workers = "min = 2; max = 8;",
          .timeouts = "start = 5.0; drain = 5.0;"};
}

void expect_reloaded(Server& server, const std::vector<PoolText>& pools, const std::string& what,
                     std::source_location where = std::source_location::current()) {
  server.write_config(config_of(pools));
  const Answer answer = server.request("POST", "/v1/reload");
  expect(answer.status == 200, "reload to " + what + ": " + answer.body, where);
}

// The inodes of all sockets in the server's network that listen on the port.
std::set<std::string> sockets_on(const Server& server, int port) {
  char wanted[8];
  snprintf(wanted, sizeof wanted, ":%04X", static_cast<unsigned>(port));
  std::set<std::string> inodes;
  for (const char* table : {"tcp", "tcp6"}) {
    std::istringstream lines(file_text("/proc/" + std::to_string(server.pid()) + "/net/" + table));
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::vector<std::string> all(std::istream_iterator<std::string>(words), {});
      if (all.size() > 9 && all[1].ends_with(wanted) && all[3] == "0A") inodes.insert(all[9]);
    }
  }
  expect(!inodes.empty(), "somebody listens on port " + std::to_string(port));
  return inodes;
}

ino_t file_at(const std::string& path) {
  struct stat s {};
  expect_equal("stat " + path, stat(path.c_str(), &s), 0);
  return s.st_ino;
}

void expect_echo(const std::string& address,
                 std::source_location where = std::source_location::current()) {
  expect(Client(address).echoes("hello\n"), address + " is served", where);
}

// Clients come all the time, and each is let in and served.
void to_all_addresses_and_back() {
  const struct {
    const char *narrow, *wide, *another;
  } kFamilies[] = {{"127.0.0.1", "0.0.0.0", "127.0.0.3"}, {"[::1]", "[::]", ""}};
  for (const auto& family : kFamilies) {
    TakenPort port;
    port.free();
    const std::string narrow = at(family.narrow, port), wide = at(family.wide, port);
    Server server({pool_on(quoted(narrow) + ", \"unix:@DIR@/sock\"")});
    const std::string path = server.address("echo", 1);
    const ino_t file = file_at(path.substr(5));
    Client busy(narrow);
    expect(busy.echoes("before\n"), "echo");
    Load load(narrow, 3), local(path, 1);
    for (int round = 0; round < 2; ++round) {
      expect_reloaded(server, {pool_on(quoted(wide) + ", \"unix:@DIR@/sock\"")}, wide);
      expect_equal("the address", server.address(), wide);
      expect_echo(narrow);
      if (*family.another) expect_echo(at(family.another, port));
      expect_reloaded(server, {pool_on(quoted(narrow) + ", \"unix:@DIR@/sock\"")}, narrow);
      expect_equal("the address", server.address(), narrow);
      expect_echo(narrow);
      if (*family.another)
        expect(!Client::try_connect(at(family.another, port)), "the others are not served");
    }
    load.stop();
    local.stop();
    expect_equal("what a client has met", load.error(), "");
    expect_equal("what a client of the path has met", local.error(), "");
    expect(load.done() > 20, std::to_string(load.done()) + " served");
    expect(busy.echoes("after\n"), "who was served goes on");
    expect_equal("the path's socket", file_at(path.substr(5)), file);
    expect_equal("state", server.pool()["state"], "running");
  }
}

// Whoever waits in the old one's queue is served, too.
void who_waits() {
  TakenPort port;
  port.free();
  const std::string narrow = at("127.0.0.1", port), wide = at("0.0.0.0", port);
  PoolText pool = pool_on(quoted(narrow));
  pool.serves = unruly();
  pool.workers = "min = 1; max = 1; min_spare = 0;";
  Server server({pool});
  Client busy(narrow);
  pid_serving(busy);
  std::vector<Client> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.emplace_back(narrow);
    waiting.back().send("p");
  }
  pool.listen = quoted(wide);
  server.write_config(config_of({pool}));
  Client control = begin_request(server, "POST", "/v1/reload");
  server.wait_for_log("reloaded ");
  auto late = std::async(std::launch::async, [&] {
    Client client(narrow);
    client.send("p");
    return client.read_line();
  });
  busy.close();
  for (Client& client : waiting) {
    expect(!client.read_line().empty(), "who waited is served");
    client.close();
  }
  expect_contains("the answer", control.read_line(), " 200 ");
  expect(!late.get().empty(), "who came meanwhile is served");
  server.wait_for("/connections/failed", 0);
}

// From one pool to another, from several to one, and to several.
void between_pools() {
  TakenPort port;
  port.free();
  const std::string one = quoted(at("127.0.0.1", port)), two = quoted(at("127.0.0.2", port)),
                    all = quoted(at("0.0.0.0", port)), any = "\"127.0.0.1:0\"";
  Server server({pool_on(one, "a"), pool_on(any, "b")});
  const struct {
    const char* what;
    std::vector<PoolText> pools;
    std::vector<std::string> served;
  } kSteps[] = {
      {"all, of the other", {pool_on(any, "a"), pool_on(all, "b")}, {"127.0.0.1", "127.0.0.2"}},
      {"one each", {pool_on(one, "a"), pool_on(two, "b")}, {"127.0.0.1", "127.0.0.2"}},
      {"all, of the first", {pool_on(all, "a"), pool_on(any, "b")}, {"127.0.0.1", "127.0.0.2"}},
      {"both of one", {pool_on(any, "a"), pool_on(one + ", " + two, "b")}, {"127.0.0.2"}},
      {"all, of a new one", {pool_on(all, "c")}, {"127.0.0.1", "127.0.0.2"}},
  };
  Load load(at("127.0.0.1", port), 2);
  for (const auto& step : kSteps) {
    expect_reloaded(server, step.pools, step.what);
    for (const std::string& host : step.served) expect_echo(at(host, port));
    for (const PoolText& pool : step.pools)
      expect_equal(pool.name + (" with " + std::string(step.what)), server.pool(pool.name)["state"],
                   "running");
  }
  load.stop();
  expect_equal("what a client has met", load.error(), "");
}

// To another user only when the first one's processes have let go of it.
void between_users() {
  if (!can_attack()) return;
  TakenPort port;
  port.free();
  auto pool_of = [&](const char* user, const std::string& host) {
    PoolText pool = pool_on(quoted(at(host, port)), user);
    pool.serves = "program = [ \"/bin/sh\", \"-c\", \"read x; id -un\" ];";
    pool.more = std::string("user = \"") + user + "\";";
    return pool;
  };
  auto who_serves = [&] {
    Client client(at("127.0.0.1", port));
    client.send("who\n");
    return client.read_line();
  };
  Server server({pool_of(kAlice, "127.0.0.1")});
  expect_reloaded(server, {pool_of(kBob, "0.0.0.0")}, "bob");
  for (int i = 0; i < 5; ++i) expect_equal("who serves", who_serves(), kBob);
  expect_reloaded(server, {pool_of(kAlice, "127.0.0.1")}, "alice");
  for (int i = 0; i < 5; ++i) expect_equal("who serves", who_serves(), kAlice);
}

// What cannot be had is known before anything has changed.
void another_ones_part_of_it() {
  TakenPort port;
  const std::string mine = at("127.0.0.2", port);
  Server server({pool_on(quoted(mine))});
  const uint32_t generation = server.pool()["generation"];
  server.write_config(config_of({pool_on(quoted(at("0.0.0.0", port)))}));
  const Answer answer = server.request("POST", "/v1/reload");
  expect_equal("status", answer.status, 409);
  expect_contains("the reason", answer.body,
                  "bind " + at("0.0.0.0", port) + ": Address already in use");
  expect_equal("the generation", server.pool()["generation"], generation);
  expect_equal("the state", server.pool()["state"], "running");
  expect_echo(mine);
}

// The same address in other words is the same socket.
void in_other_words() {
  TakenPort port;
  port.free();
  Server server({pool_on(quoted(at("0.0.0.0", port)))});
  const auto inodes = sockets_on(server, port.number());
  for (const char* host : {"*", "0.0.0.0", "000.0.0.0"}) {
    expect_reloaded(server, {pool_on(quoted(at(host, port)))}, host);
    expect(sockets_on(server, port.number()) == inodes, std::string("the socket of ") + host);
    expect_echo(at("127.0.0.1", port));
  }
}

std::string with_web(const PoolText& pool, const std::string& web) {
  const std::string off = "web = \"\"";
  std::string config = config_of({pool});
  return config.replace(config.find(off), off.size(), "web = " + quoted(web));
}

std::string first_line_of_page(Client& page) {
  page.send("GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n");
  return page.read_line();
}

void control_web() {
  TakenPort port;
  port.free();
  Server server(with_web({}, at("127.0.0.1", port)));
  for (const char* host : {"0.0.0.0", "127.0.0.1"}) {
    server.write_config(with_web({}, at(host, port)));
    const Answer answer = server.request("POST", "/v1/reload");
    expect(answer.status == 200, std::string("reload to ") + host + ": " + answer.body);
    Client page(at("127.0.0.1", port));
    expect_contains("the page", first_line_of_page(page), " 200 ");
    expect_equal("other addresses", Client::try_connect(at("127.0.0.2", port)).has_value(),
                 std::string(host) == "0.0.0.0");
  }
}

// Either gets what the other one gives up in the same reload.
void control_web_and_a_pool() {
  TakenPort one, other;
  one.free();
  other.free();
  auto config = [&](const std::string& pool, const std::string& web) {
    return with_web(pool_on(quoted(pool)), web);
  };
  Server server(config(at("127.0.0.1", one), at("127.0.0.1", other)));
  const struct {
    std::string pool, web;
  } kSteps[] = {{at("127.0.0.1", other), at("127.0.0.1", one)},
                {at("0.0.0.0", one), at("127.0.0.1", other)},
                {at("127.0.0.1", other), ""},
                {at("127.0.0.1", one), at("0.0.0.0", other)},
                {at("127.0.0.1", one), at("127.0.0.1", other)}};
  for (const auto& step : kSteps) {
    server.write_config(config(step.pool, step.web));
    const Answer answer = server.request("POST", "/v1/reload");
    const std::string what = "pool on " + step.pool + ", web on " + step.web;
    expect(answer.status == 200, what + ": " + answer.body);
    expect_echo(at("127.0.0.1", step.pool.ends_with(at("", one)) ? one : other));
    if (step.web.empty()) continue;
    server.wait_until(what + ": the page", kPatience, [&] {
      auto page =
          Client::try_connect(at("127.0.0.1", step.web.ends_with(at("", one)) ? one : other));
      return page && first_line_of_page(*page).find(" 200 ") != std::string::npos;
    });
  }
  // What cannot be there together is refused, and nothing changed.
  server.write_config(config(at("127.0.0.1", other), at("0.0.0.0", other)));
  const Answer both = server.request("POST", "/v1/reload");
  expect(both.status == 409 && both.body.find("overlaps") != std::string::npos,
         "both on one: " + both.body);
  expect_echo(at("127.0.0.1", one));
  // What a stranger has is refused, as ever.
  TakenPort taken;
  server.write_config(config(at("127.0.0.1", one), at("127.0.0.1", taken)));
  expect_equal("a stranger's", server.request("POST", "/v1/reload").status, 409);
}

// --- in a network of its own, which has the loopback addresses ---------------------------------------

bool can_unshare() {
  if (!is_root()) skip("needs a network of its own");
  return is_root();
}

void enter_own_network() {
  if (unshare(CLONE_NEWNET) < 0) _exit(99);
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) < 0) _exit(99);
}

// In the network of a process.
template <class Action>
auto within(pid_t pid, Action action) {
  return std::async(std::launch::async,
                    [&] {
                      const std::string path = "/proc/" + std::to_string(pid) + "/ns/net";
                      UniqueFd network(open(path.c_str(), O_RDONLY | O_CLOEXEC));
                      if (setns(network.get(), CLONE_NEWNET) < 0) throw Failure("setns");
                      return action();
                    })
      .get();
}

void add_address(pid_t pid, const std::string& address) {
  const Outcome added =
      run({"nsenter", "-t", std::to_string(pid), "-n", "ip", "addr", "add", address, "dev", "lo"});
  if (added.code != 0) throw Failure("ip addr add: " + added.err);
}

void one_that_comes_later() {
  if (!can_unshare()) return;
  const std::string v4 = "192.0.2.7:7007", v6 = "[2001:db8::7]:7007";
  PoolText pool = pool_on(quoted(v4) + ", " + quoted(v6));
  pool.more = "tcp = { freebind = true; };";
  Server server({pool}, {.in_child = enter_own_network});
  expect_equal("the state", server.pool()["state"], "running");
  add_address(server.pid(), "192.0.2.7/32");
  add_address(server.pid(), "2001:db8::7/128");
  for (const std::string& address : {v4, v6})
    within(server.pid(), [&] {
      expect_echo(address);
      return true;
    });
}

// Without it the pool waits; a reload that asks for it ends that.
void waited_for_until_asked() {
  if (!can_unshare()) return;
  PoolText pool = pool_on(quoted("192.0.2.7:7007"));
  Server server({pool}, {.wait_until_ready = false, .in_child = enter_own_network});
  server.wait_for_log("ready: 0 of 1 pools running");
  expect_contains("the reason", server.pool()["reason"], "Cannot assign requested address");
  pool.more = "tcp = { freebind = true; };";
  expect_reloaded(server, {pool}, "freebind");
  server.wait_for("/state", "running");
  // And without it an address that comes is had, too.
  PoolText plain = pool_on(quoted("192.0.2.8:7007"), "plain");
  Server other({plain}, {.wait_until_ready = false, .in_child = enter_own_network});
  other.wait_for_log("ready: 0 of 1 pools running");
  add_address(other.pid(), "192.0.2.8/32");
  other.wait_for("/state", "running", "plain");
  within(other.pid(), [&] {
    expect_echo("192.0.2.8:7007");
    return true;
  });
}

// A program that says the name of its pool, and what is in force.
PoolText named(const std::string& name, const std::vector<const TakenPort*>& ports,
               const std::string& round = "") {
  std::string listen;
  for (const TakenPort* port : ports) listen += (listen.empty() ? "" : ", ") + port->quoted();
  PoolText pool = pool_on(listen, name);
  pool.serves = "program = [ \"/bin/sh\", \"-c\", \"read x; echo " + name + round + "\" ];";
  pool.workers = "min = 0; max = 4; min_spare = 0; max_spare = 0; shrink_after = 0.1;";
  return pool;
}

// What somebody else has is waited for, and holds up nothing: whatever happens to the pool, its other addresses are
// served by what is in force, and by nobody else.
struct PartlyServed {
  TakenPort taken, x, y;
  Server server;

  PartlyServed()
      : server((x.free(), y.free(), std::vector{named("a", {&x, &taken})}),
               {.wait_until_ready = false}) {
    server.wait_for_log("ready: ");
  }
  void expect_answers(const TakenPort& port, const std::string& answer,
                      std::source_location where = std::source_location::current()) {
    for (int i = 0; i < 6; ++i) {
      Client client(port.address());
      client.send("who?\n");
      expect_equal("at " + port.address(), client.read_line(), answer, where);
    }
  }
  void wait_until_alone(const std::string& pool) {
    server.wait_until("nobody but one generation of " + pool, kPatience, [&] {
      size_t supervisors = 0;
      for (pid_t pid : server.all_pids())
        supervisors += title_of(pid) == "preforkd: supervisor " + pool;
      return supervisors == 1 && server.pool(pool)["workers"]["total"] == 0;
    });
  }
  void expect_waits(const std::string& pool,
                    std::source_location where = std::source_location::current()) {
    server.wait_until(
        "the reason is known", kPatience,
        [&] {
          const Json status = server.pool(pool);
          return status["state"] == "degraded" &&
                 status["reason"].get<std::string>().find("Address already in use") !=
                     std::string::npos;
        },
        where);
  }
};

void served_without_it() {
  PartlyServed p;
  p.expect_answers(p.x, "a");
  for (const char* round : {" 1", " 2"}) {
    p.wait_until_alone("a");
    expect_reloaded(p.server, {named("a", {&p.x, &p.taken}, round)}, round);
    p.expect_answers(p.x, std::string("a") + round);
    p.expect_waits("a");
  }
  p.wait_until_alone("a");
  expect_equal("recycle", p.server.ctl({"recycle", "a"}).code, 0);
  p.expect_answers(p.x, "a 2");
  for (const int number : {SIGKILL, SIGTERM}) {
    p.wait_until_alone("a");
    const pid_t before = p.server.supervisor("a");
    kill(before, number);
    p.server.wait_until("it has ended", kPatience, [&] { return !is_running(before); });
    p.expect_answers(p.x, "a 2");
    p.expect_waits("a");
  }
  p.wait_until_alone("a");
  expect_equal("upgrade", p.server.request("POST", "/v1/upgrade").status, 200);
  p.expect_answers(p.x, "a 2");
  expect_equal("drain", p.server.ctl({"drain", "a"}).code, 0);
  p.server.wait_for("/state", "stopped", "a");
  expect_equal("resume", p.server.ctl({"resume", "a"}).code, 0);
  p.expect_answers(p.x, "a 2");
  p.expect_waits("a");
  p.taken.free();
  p.server.wait_for("/state", "running", "a");
  p.expect_answers(p.x, "a 2");
  p.expect_answers(p.taken, "a 2");
}

void others_move_meanwhile() {
  PartlyServed p;
  const auto *x = &p.x, *y = &p.y, *taken = &p.taken;
  auto reload = [&](const std::vector<PoolText>& pools, const std::string& what) {
    expect_reloaded(p.server, pools, what);
    for (const PoolText& pool : pools)
      for (const TakenPort* port : {x, y})
        if (pool.listen.find(port->quoted()) != pool.listen.npos)
          p.expect_answers(*port, pool.name);
    for (const PoolText& pool : pools) p.wait_until_alone(pool.name);
  };
  reload({named("a", {x, y, taken})}, "another address");
  p.expect_waits("a");
  reload({named("a", {x, taken}), named("b", {y})}, "one for another pool");
  reload({named("a", {y, taken}), named("b", {x})}, "an exchange");
  p.expect_waits("a");
  reload({named("b", {x}), named("a", {y, taken})}, "another order");
  reload({named("a", {y}), named("b", {x, taken})}, "what is awaited for another pool");
  p.expect_waits("b");
  p.server.wait_for("/state", "running", "a");
  reload({named("c", {y, x, taken})}, "a new pool for all");
  p.expect_waits("c");
  p.taken.free();
  p.server.wait_for("/state", "running", "c");
  p.expect_answers(p.taken, "c");
}

// Each is served when it is had, whatever the others are.
void one_by_one() {
  std::vector<TakenPort> taken(3);
  std::string listen = "\"127.0.0.1:0\"";
  for (const TakenPort& port : taken) listen += ", " + port.quoted();
  Server server({pool_on(listen)}, {.wait_until_ready = false});
  server.wait_for_log("ready: ");
  Client client(server.address());
  for (TakenPort& port : taken) {
    expect_equal("state", server.pool()["state"], "degraded");
    port.free();
    server.wait_until("it listens", kPatience,
                      [&] { return Client::try_connect(port.address()).has_value(); });
    expect_echo(port.address());
    expect_echo(server.address());
    expect(client.echoes("still here\n"), "who is served is served on");
  }
  server.wait_for("/state", "running");
}

// An address that is had while a generation without it is on trial.
void had_during_a_trial() {
  TakenPort taken;
  PoolText pool = pool_on("\"127.0.0.1:0\", " + taken.quoted());
  Server server({pool}, {.wait_until_ready = false});
  server.wait_for_log("ready: ");
  pool.serves = unruly("start_ms = 2000;");
  server.write_config(config_of({pool}));
  auto answer =
      std::async(std::launch::async, [&] { return server.request("POST", "/v1/reload"); });
  server.wait_until("the trial", kPatience,
                    [&] { return server.pool()["generations"].size() > 1; });
  taken.free();
  expect_equal("reload", answer.get().status, 200);
  server.wait_for("/state", "running");
  for (const std::string& address : {server.address(), taken.address()}) {
    Client client(address);
    expect(pid_serving(client) > 0, "served at " + address);
  }
}

// An upgrade does not wait for it, and goes on waiting.
void an_upgrade_meanwhile() {
  auto one = std::make_unique<TakenPort>(), other = std::make_unique<TakenPort>();
  const std::string waited = at("127.0.0.1", *one), also = at("127.0.0.1", *other);
  Server server({pool_on("\"127.0.0.1:0\""), pool_on(quoted(waited), "waits"),
                 pool_on("\"127.0.0.1:0\", " + quoted(also), "partly")},
                {.wait_until_ready = false});
  server.wait_for_log("ready: ");
  const std::string in_use = "Address already in use";
  Client client(server.address());
  for (int i = 0; i < 2; ++i) {
    const Answer answer = server.request("POST", "/v1/upgrade");
    expect(answer.status == 200, "upgrade: " + answer.body);
    expect(client.echoes("still here\n"), "who is served is served on");
    for (const char* pool : {"waits", "partly"}) {
      expect_equal(std::string("state of ") + pool, server.pool(pool)["state"], "degraded");
      expect_contains("the reason", server.pool(pool)["reason"], in_use);
    }
    expect_echo(server.address("partly"));
  }
  one.reset();
  server.wait_for("/state", "running", "waits");
  expect_echo(waited);
  expect_equal("and again", server.request("POST", "/v1/upgrade").status, 200);
  expect_contains("the other's reason", server.pool("partly")["reason"], in_use);
  other.reset();
  server.wait_for("/state", "running", "partly");
  expect_echo(also);
  expect_equal("nobody crashed", server.pool("waits")["lifetime"]["crashed"], 0);
}

// --- names ------------------------------------------------------------------------------------------

// A machine whose names are those in the file.
struct Names {
  TestFolder folder;
  std::string file = folder.write("hosts", "");

  void are(const std::string& text) const { std::ofstream(file) << text; }
  std::function<void()> mounted() const {
    return [this] {
      enter_own_network();
      if (unshare(CLONE_NEWNS) < 0 ||
          mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
          mount(file.c_str(), "/etc/hosts", nullptr, MS_BIND, nullptr) < 0)
        _exit(99);
    };
  }
};

std::vector<std::string> addresses_of(Server& server) {
  std::vector<std::string> all;
  const Json pool = server.pool();
  for (const Json& one : pool["listen"]) all.push_back(one);
  std::sort(all.begin(), all.end());
  return all;
}

void expect_all_served(Server& server, std::vector<std::string> addresses,
                       std::source_location where = std::source_location::current()) {
  std::sort(addresses.begin(), addresses.end());
  expect(addresses_of(server) == addresses, "the addresses are " + server.pool()["listen"].dump(),
         where);
  for (const std::string& address : addresses)
    within(server.pid(), [&] {
      expect_echo(address, where);
      return true;
    });
}

void all_of_a_name() {
  if (!can_unshare()) return;
  const Names names;
  names.are("127.0.0.1 localhost\n::1 localhost\n127.0.0.2 app\n127.0.0.3 app\n");
  PoolText pool = pool_on("\"localhost:7007\", \"app:7008\"");
  Server server({pool}, {.in_child = names.mounted()});
  expect_all_served(server, {"127.0.0.1:7007", "[::1]:7007", "127.0.0.2:7008", "127.0.0.3:7008"});
  const auto inodes = sockets_on(server, 7007);
  expect_equal("sockets of localhost", inodes.size(), 2u);
  expect_reloaded(server, {pool}, "the same");
  expect(sockets_on(server, 7007) == inodes, "the sockets stay");
  // It means others from then on, and the same in other words.
  names.are("127.0.0.1 localhost\n::1 localhost\n127.0.0.3 app\n127.0.0.4 app\n");
  expect_reloaded(server, {pool}, "another meaning");
  expect_all_served(server, {"127.0.0.1:7007", "[::1]:7007", "127.0.0.3:7008", "127.0.0.4:7008"});
  pool.listen = "\"127.0.0.1:7007\", \"[::1]:7007\", \"app:7008\"";
  expect_reloaded(server, {pool}, "numbers");
  expect(sockets_on(server, 7007) == inodes, "the sockets stay in other words");
  expect_all_served(server, {"127.0.0.1:7007", "[::1]:7007", "127.0.0.3:7008", "127.0.0.4:7008"});
  // Nobody knows it any more: it stays what it was.
  names.are("127.0.0.1 localhost\n");
  expect_reloaded(server, {pool}, "a name that is not known");
  expect_all_served(server, {"127.0.0.1:7007", "[::1]:7007", "127.0.0.3:7008", "127.0.0.4:7008"});
  expect_equal("the upgrade", server.ctl({"upgrade"}).code, 0);
  expect_all_served(server, {"127.0.0.1:7007", "[::1]:7007", "127.0.0.3:7008", "127.0.0.4:7008"});
}

// A name may have more than a pool can listen on.
void too_many() {
  if (!can_unshare()) return;
  const Names names;
  std::string many;
  for (int i = 1; i <= 65; ++i) many += "127.0.1." + std::to_string(i) + " many\n";
  names.are("127.0.0.1 localhost\n");
  Server server({pool_on("\"localhost:7007\"")}, {.in_child = names.mounted()});
  names.are(many);
  server.write_config(config_of({pool_on("\"many:7007\"")}));
  const Answer answer = server.request("POST", "/v1/reload");
  expect_equal("status", answer.status, 409);
  expect_contains(
      "the reason", answer.body,
      "pool echo: listen: its names have 65 addresses in all, and 64 sockets are the most");
  expect_all_served(server, {"127.0.0.1:7007"});
}

// Of a family that this machine does not have, none is asked for.
void without_ipv6() {
  if (!can_unshare()) return;
  const Names names;
  names.are("127.0.0.1 localhost\n::1 localhost\n");
  Server server({pool_on("\"localhost:7007\"")}, {.in_child = [&] {
                  names.mounted()();
                  std::ofstream("/proc/sys/net/ipv6/conf/all/disable_ipv6") << "1";
                }});
  expect_equal("the state", server.pool()["state"], "running");
  expect_all_served(server, {"127.0.0.1:7007"});
}

}  // namespace

Suite addresses_suite() {
  return {"addresses",
          {{"to all addresses and back", to_all_addresses_and_back},
           {"who waits", who_waits},
           {"between pools", between_pools},
           {"between users", between_users},
           {"another one's part of it", another_ones_part_of_it},
           {"in other words", in_other_words},
           {"control.web", control_web},
           {"control.web and a pool", control_web_and_a_pool},
           {"one that comes later", one_that_comes_later},
           {"waited for until asked", waited_for_until_asked},
           {"served without it", served_without_it},
           {"others move meanwhile", others_move_meanwhile},
           {"one by one", one_by_one},
           {"had during a trial", had_during_a_trial},
           {"an upgrade meanwhile", an_upgrade_meanwhile},
           {"all of a name", all_of_a_name},
           {"too many", too_many},
           {"without IPv6", without_ipv6}}};
}

}  // namespace preforkd::system_test
