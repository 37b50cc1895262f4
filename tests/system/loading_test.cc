// Configurations whose loading takes as long as somebody else likes: the daemon does not wait for it, but to say so.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr double kAtOnce = 1;  // seconds

const PoolText kGood{.workers = "min = 1; max = 4;"};

ServerOptions with_slow_names() {
  ServerOptions options;
  options.in_child = [] {
    setenv("LD_PRELOAD", built("tests/system/handlers/slow_names.so").c_str(), 1);
  };
  return options;
}

PoolText slow_host() {
  PoolText pool = kGood;
  pool.listen += ", \"slow.test:0\"";
  return pool;
}

template <class Action>
void expect_at_once(const std::string& what, Action action) {
  const Nanoseconds began = monotonic_now();
  action();
  const double seconds = static_cast<double>(monotonic_now() - began) / 1e9;
  expect(seconds < kAtOnce * slowness(), what + " takes " + std::to_string(seconds) + " s");
}

// While a configuration is being loaded, everything else is done as ever.
void expect_alive(Server& server) {
  expect(Client(server.address()).echoes("hello\n"), "clients are served");
  expect_at_once("set", [&] {
    Outcome set = server.ctl({"set", "echo", "max=3"});
    expect_equal("exit code of set: " + set.err, set.code, 0);
  });
  const uint32_t generation = server.pool()["generation"];
  expect_at_once("the next supervisor", [&] {
    kill(server.supervisor(), SIGKILL);
    server.wait_for("/generation", generation + 1);
    server.wait_for("/state", "running");
  });
  for (const char* order : {"reload", "upgrade", "pools/echo/recycle"})
    expect_at_once(order, [&] {
      Answer answer = server.request("POST", std::string("/v1/") + order);
      expect_equal(std::string("status of ") + order, answer.status, 409);
      expect_contains("its reason", answer.body, "a reload is under way");
    });
}

void expect_stops_at_once(Server& server) {
  expect_at_once("a stop", [&] {
    server.signal(SIGTERM);
    expect_equal("exit code", server.wait_exit(), 0);
  });
  expect_equal("processes left", server.left_behind().size(), 0u);
}

void a_pipe() {
  Server server({kGood});
  const std::string file = server.folder().file("preforkd.conf");
  unlink(file.c_str());
  expect_equal("mkfifo", mkfifo(file.c_str(), 0644), 0);
  expect_at_once("the refusal", [&] {
    Answer answer = server.request("POST", "/v1/reload");
    expect_equal("status", answer.status, 409);
    expect_contains("the reason", answer.body, "it is a pipe, which is read at the start only");
  });
  expect_stops_at_once(server);
}

void a_host_without_answer() {
  if (are_sanitized()) return skip("sanitizers want to be loaded first");
  Server server({kGood}, with_slow_names());
  server.write_config(config_of({slow_host()}));
  server.signal(SIGHUP);
  server.wait_for_process("preforkd: loading");
  expect_alive(server);
  expect_stops_at_once(server);
}

// What is bound is bound: no name is needed for it.
void a_host_that_is_bound_already() {
  if (are_sanitized()) return skip("sanitizers want to be loaded first");
  PoolText named = kGood;
  named.listen = "\"localhost:0\"";
  Server server({named}, with_slow_names());
  const std::string address = server.address();
  server.write_config(config_of({PoolText{.listen = named.listen}}));
  Outcome reload = server.ctl({"reload"});
  expect_equal("exit code of reload: " + reload.err, reload.code, 0);
  expect_equal("the address", server.address(), address);
  PoolText unknown = named;
  unknown.listen += ", \"no-such-host.invalid:0\"";
  server.write_config(config_of({unknown}));
  reload = server.ctl({"reload"});
  expect(reload.code != 0, "a name that is not known is refused");
  expect_contains("the reason", reload.err, "resolve no-such-host.invalid: ");
}

void a_handler_that_hangs() {
  Server server({kGood});
  PoolText hanging{.name = "hanging", .serves = "handler = \"@HANDLERS@/hangs.so\";"};
  server.write_config(config_of({kGood, hanging}));
  server.signal(SIGHUP);
  pid_t check = server.wait_for_process("preforkd: check hanging");
  expect_alive(server);
  // Who is told to end takes the check along.
  kill(server.wait_for_process("preforkd: loading"), SIGTERM);
  server.wait_for_log("reload refused, nothing was changed: load ");
  server.wait_until("the check is gone", kPatience, [&] { return !is_running(check); });
  server.signal(SIGHUP);
  server.wait_for_process("preforkd: check hanging");
  expect_stops_at_once(server);
}

void a_loader_that_dies() {
  if (are_sanitized()) return skip("sanitizers want to be loaded first");
  Server server({kGood}, with_slow_names());
  server.write_config(config_of({slow_host()}));
  server.signal(SIGHUP);
  kill(server.wait_for_process("preforkd: loading"), SIGKILL);
  server.wait_for_log("preforkd.conf: killed by signal 9 (Killed)");
  server.write_config(config_of({PoolText{}}));
  Outcome reload = server.ctl({"reload"});
  expect_equal("exit code of reload: " + reload.err, reload.code, 0);
}

// What comes later than the loading still knows the lines of the file.
void says_where_it_stands() {
  Server server({kGood});
  PoolText failing{.name = "failing", .serves = unruly("fail_preload = true;")};
  server.write_config(config_of({kGood, failing}));
  const Answer answer = server.request("POST", "/v1/reload");
  expect_equal("status", answer.status, 409);
  expect_contains("the reason", answer.body,
                  "preforkd.conf:5: pool failing: the new generation failed: ");
}

// Both at once: they take half a minute.
void nothing_takes_for_ever() {
  if (are_sanitized()) return skip("sanitizers want to be loaded first");
  PoolText slow_user = kGood;
  slow_user.more = "user = \"slow\";";
  ServerOptions no_start = with_slow_names();
  no_start.wait_until_ready = false;
  Server starting({slow_host()}, no_start);
  Server server({kGood}, with_slow_names());
  server.write_config(config_of({slow_user}));
  server.signal(SIGHUP);
  server.wait_until("the reload is refused", 30 + kPatience, [&] {
    return server.log().find(
               "preforkd.conf: not loaded within 30 s; what has no end: look up "
               "user \"slow\"") != std::string::npos;
  });
  server.wait_until("the loader is gone", kPatience,
                    [&] { return server.find_process("preforkd: loading") == 0; });
  expect(Client(server.address()).echoes("hello\n"), "clients are served");
  expect_refused_start(starting, 71, "look up host \"slow.test\": no answer within 30 s");
}

// At the start, anything that ends will do.
void pipes_at_the_start() {
  TestFolder folder;
  const std::string file = folder.write("a.conf", config_of({kGood})), preforkd = built("preforkd");
  for (const std::string& command : {preforkd + " -t -c /dev/stdin < " + file,
                                     "cat " + file + " | " + preforkd + " -t -c /dev/stdin",
                                     preforkd + " -t -c <(cat " + file + ")"}) {
    const Outcome outcome = run({"bash", "-c", command});
    expect_equal("exit code of " + command + ": " + outcome.err, outcome.code, 0);
  }
}

}  // namespace

Suite loading_suite() {
  return {"loading",
          {{"a pipe", a_pipe},
           {"a host without an answer", a_host_without_answer},
           {"a host that is bound already", a_host_that_is_bound_already},
           {"a handler that hangs", a_handler_that_hangs},
           {"a loader that dies", a_loader_that_dies},
           {"says where it stands", says_where_it_stands},
           {"nothing takes for ever", nothing_takes_for_ever},
           {"pipes at the start", pipes_at_the_start}}};
}

}  // namespace preforkd::system_test
