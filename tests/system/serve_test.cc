// Serving: every kind of listen socket, several pools, and figures that are right at any moment.
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/address.h"
#include "base/error.h"
#include "daemon/resolve.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

// The folder's path makes the abstract name one of its own.
constexpr char kEveryKind[] =
    R"("127.0.0.1:0", "[::1]:0", "unix:@DIR@/echo.sock", "unix:@@DIR@/abstract")";

void every_kind_of_socket() {
  Server server({PoolText{.listen = kEveryKind}});
  Json listen = server.pool()["listen"];
  expect_equal("sockets", listen.size(), 4u);
  expect_equal("the path", listen.at(2), "unix:" + server.folder().file("echo.sock"));
  for (const std::string address : listen) {
    Client client(address);
    expect(client.echoes("hello\n"), "echo over " + address);
    Load load(address, 4, short_echo, 25);
    load.join();
    expect_equal("error over " + address, load.error(), "");
  }
  server.wait_for("/connections/served", 4 * 101);
  expect_equal("failed", server.pool()["connections"]["failed"], 0);
}

void peer_is_shown() {
  Server server({PoolText{.listen = kEveryKind}});
  for (size_t i = 0; i < 4; ++i) {
    Client client(server.address("echo", i));
    client.echoes("hello\n");
    std::string peer = i < 2 ? client.own_address() : "unix:pid=" + std::to_string(getpid());
    server.wait_until("its peer is shown as " + peer, kPatience, [&] {
      Json workers = server.workers();
      return std::any_of(workers.begin(), workers.end(), [&](const Json& worker) {
        return worker["peer"].is_string() && std::string(worker["peer"]).starts_with(peer);
      });
    });
  }
}

UniqueFd listening_on(const std::string& text, std::string& real) {
  std::string error;
  SocketAddress address = resolve(*parse_listen_address(text, error));
  UniqueFd fd(socket(address.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(fd.get(), address.get(), address.length) < 0 || listen(fd.get(), 64) < 0)
    throw SysError("listen on " + text, errno);
  address.length = sizeof address.storage;
  getsockname(fd.get(), address.get(), &address.length);
  real = to_string(address);
  return fd;
}

void inherited_sockets() {
  std::string web, local;
  UniqueFd web_fd = listening_on("127.0.0.1:0", web);
  TestFolder folder;
  UniqueFd local_fd = listening_on("unix:" + folder.file("local.sock"), local);
  {
    Server server({PoolText{.listen = R"("systemd:web")"},
                   PoolText{.name = "other", .listen = R"("systemd:local", "127.0.0.1:0")"}},
                  {.inherited = {local_fd.get(), web_fd.get()}, .inherited_names = "local:web"});
    expect_equal("what echo listens on", server.address("echo"), web);
    expect_equal("what other listens on", server.address("other"), local);
    expect(Client(web).echoes("hello\n"), "echo over the inherited TCP socket");
    expect(Client(local).echoes("hello\n"), "echo over the inherited Unix socket");
    expect(Client(server.address("other", 1)).echoes("hello\n"), "echo over its own socket");
    Client busy(web);
    busy.echoes("hello\n");
    server.signal(SIGTERM);
    server.wait_until("it is stopping", kPatience,
                      [&] { return server.status()["stopping"] == true; });
    busy.half_close();
    expect_equal("exit code", server.wait_exit(), 0);
  }
  // Given up by preforkd, but not shut: whoever holds it may serve it on.
  expect(Client::try_connect(web).has_value(), "the inherited TCP socket still takes connections");
  expect(Client::try_connect(local).has_value(), "the inherited Unix socket still does");
}

void pools_have_figures_of_their_own() {
  Server server({PoolText{}, PoolText{.name = "sink", .serves = "handler = \"discard\";"},
                 PoolText{.name = "third"}});
  Client sink(server.address("sink"));
  sink.send(std::string(8 << 20, 'x'));
  sink.half_close();
  expect_equal("what discard answers", sink.read_until_eof(), "");
  Load echo(server.address("echo"), 3, short_echo, 10);
  echo.join();
  expect_equal("error", echo.error(), "");
  server.wait_for("/connections/served", 30, "echo");
  server.wait_for("/connections/served", 1, "sink");
  server.wait_for("/connections/accepted", 0, "third");
  expect_equal("pools", server.status()["pools"].size(), 3u);
}

struct Counters {
  explicit Counters(const Json& pool)
      : accepted(pool["connections"]["accepted"]),
        served(pool["connections"]["served"]),
        failed(pool["connections"]["failed"]),
        aborted(pool["connections"]["aborted"]),
        active(pool["connections"]["active"]) {}
  uint64_t accepted, served, failed, aborted, active;
};

// Every third connection is one that the handler fails.
void served_or_failed(Client& client) {
  bool fail = pid_serving(client) && (client.send("n"), std::stoi(client.read_line()) % 3 == 0);
  if (fail)
    client.send("f");
  else
    client.half_close();
  if (!client.is_ended()) throw Failure("the connection did not end");
}

void figures_are_exact_at_any_moment() {
  Server server({PoolText{.serves = unruly(),
                          .workers = "min = 2; max = 12; max_spare = 2; shrink_after = 0.3;"}});
  Load load(server.address(), 6, served_or_failed);
  Counters last(server.pool());
  for (int sample = 0; sample < 150; ++sample) {
    Counters now(server.pool());
    expect_equal("the sum", now.served + now.failed + now.aborted + now.active, now.accepted);
    expect(now.accepted >= last.accepted && now.served >= last.served && now.failed >= last.failed,
           "a counter fell");
    expect(now.active <= 12, "more are active than there may be workers");
    last = now;
  }
  load.stop();
  expect_equal("error", load.error(), "");
  server.wait_for("/connections/active", 0);
  Counters end(server.pool());
  expect_equal("accepted", end.accepted, load.done());
  expect(end.failed > 0 && end.served > end.failed, "some failed, and more were served");
  expect(load.done() > 300, "there was a load: " + std::to_string(load.done()));
}

void resets_and_half_closes_cost_nothing() {
  Server server({PoolText{}});
  Json before = server.workers();
  Client silent(server.address());
  for (int i = 0; i < 20; ++i) {
    Client resets(server.address());
    resets.send("never read back");
    resets.reset();
    Client leaves(server.address());
    leaves.half_close();
    expect_equal("answer to nothing", leaves.read_until_eof(), "");
  }
  server.wait_for("/connections/accepted", 41);
  server.wait_for("/connections/active", 1);
  silent.close();
  server.wait_for("/connections/active", 0);
  Json pool = server.pool();
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  expect(pool["connections"]["served"] >= 21, "half-closed and silent ones were served");
}

}  // namespace

Suite serve_suite() {
  return {"serve",
          {{"echo over every kind of listen socket", every_kind_of_socket},
           {"the peer of a busy worker is shown", peer_is_shown},
           {"inherited sockets are served and left open", inherited_sockets},
           {"pools have figures of their own", pools_have_figures_of_their_own},
           {"figures are exact at any moment", figures_are_exact_at_any_moment},
           {"resets and half-closes cost nothing", resets_and_half_closes_cost_nothing}}};
}

}  // namespace preforkd::system_test
