// A program per connection: what it is given, what becomes of it.
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>

#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

PoolText program(const std::string& argv, const std::string& timeouts = "") {
  return {.serves = "program = [ " + argv + " ];", .timeouts = timeouts};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void cat_echoes() {
  Server server({program("\"/bin/cat\"")});
  Client client(server.address());
  expect(client.echoes("hello\n"), "echo");
  client.half_close();
  expect_equal("the rest", client.read_until_eof(), "");
  Load load(server.address(), 4, short_echo, 25);
  load.join();
  expect_equal("error", load.error(), "");
  server.wait_for("/connections/served", 101);
  Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  server.wait_for("/lifetime/recycled", 101);
  server.wait_for("/state", "running");
}

void arguments_are_passed() {
  Server server({program(R"("/usr/bin/printf", "%s|", "one", "two words", "", "*")")});
  expect_equal("output", Client(server.address()).read_until_eof(), "one|two words||*|");
}

// What systemd and an outer preforkd left in the daemon's environment is not for the program.
void set_foreign_environment() {
  for (const char* name : {"TCPREMOTEINFO", "TCPREMOTEHOST", "TCPLOCALHOST", "NOTIFY_SOCKET",
                           "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES"})
    setenv(name, "", 1);
  setenv("WATCHDOG_PID", "1", 1);
  setenv("LISTEN_PID", "1", 1);
  setenv("PROTO", "SSL", 1);
  setenv("TCPREMOTEIP", "192.0.2.1", 1);
  setenv("MARK", "kept as it is", 1);
}

bool is_about_the_connection(const std::string& line) {
  for (const char* prefix : {"PROTO=", "TCP", "REMOTE_", "UNIX", "LISTEN_", "NOTIFY_", "WATCHDOG_"})
    if (line.starts_with(prefix)) return true;
  return false;
}

void expect_environment(const std::string& what, Client& client, std::set<std::string> expected) {
  bool mark = false;
  for (const std::string& line : lines_of(client.read_until_eof())) {
    mark |= line == "MARK=kept as it is";
    if (is_about_the_connection(line))
      expect(expected.erase(line) == 1, what + ": unexpected " + line);
  }
  for (const std::string& line : expected) expect(false, what + ": missing " + line);
  expect(mark, what + ": the rest is passed on");
}

void environment() {
  PoolText pool = program("\"/usr/bin/env\"");
  pool.listen = R"("127.0.0.1:0", "[::1]:0", "unix:@DIR@/env.sock")";
  Server server({pool}, {.in_child = set_foreign_environment});
  const char* kHosts[] = {"127.0.0.1", "::1"};
  for (size_t i = 0; i < 2; ++i) {
    Client client(server.address("echo", i));
    std::string own = client.own_address(), host = kHosts[i];
    std::string port = own.substr(own.rfind(':') + 1);
    expect_environment(host, client,
                       {"PROTO=TCP", "TCPLOCALIP=" + host,
                        "TCPLOCALPORT=" + std::to_string(server.port("echo", i)),
                        "TCPREMOTEIP=" + host, "TCPREMOTEPORT=" + port, "REMOTE_ADDR=" + host,
                        "REMOTE_PORT=" + port, "REMOTE_HOST=" + host});
  }
  Client local(server.address("echo", 2));
  expect_environment(
      "Unix", local,
      {"PROTO=UNIX", "UNIXLOCALPATH=" + server.folder().file("env.sock"),
       "UNIXREMOTEPID=" + std::to_string(getpid()), "UNIXREMOTEEUID=" + std::to_string(geteuid()),
       "UNIXREMOTEEGID=" + std::to_string(getegid())});
}

// ls -l shows "... FD -> WHAT", one of them the folder that it reads.
void descriptors() {
  Server server({program(R"("/bin/ls", "-l", "/proc/self/fd")")});
  std::vector<std::string> open;
  for (const std::string& line : lines_of(Client(server.address()).read_until_eof())) {
    size_t arrow = line.find(" -> ");
    bool own = arrow == line.npos || line.find(" -> /proc/", arrow) != line.npos;
    if (!own) open.push_back(line.substr(line.rfind(' ', arrow - 1) + 1));
  }
  for (size_t i = 3; i < open.size(); ++i) expect(false, "a descriptor too many: " + open[i]);
  if (open.size() < 3) throw Failure("descriptors are missing");
  expect(open[0].starts_with("0 -> socket:"), "0 is the connection: " + open[0]);
  expect_equal("1 is what 0 is", open[1], "1" + open[0].substr(1));
  expect(open[2].starts_with("2 -> pipe:"), "2 is a way to the log: " + open[2]);
}

void stderr_is_the_log() {
  Server server({program(R"("/bin/sh", "-c", "echo to the log >&2")")});
  expect_equal("to the client", Client(server.address()).read_until_eof(), "");
  server.wait_for_log("to the log");
}

// Read by cat, which changes none of them itself.
void signals_are_as_for_any_program() {
  Server server({program(R"("/bin/cat", "/proc/self/status")")});
  int masks = 0;
  for (const std::string& line : lines_of(Client(server.address()).read_until_eof())) {
    bool is_mask =
        (line.starts_with("Sig") && !line.starts_with("SigQ")) || line.starts_with("ShdPnd");
    if (!is_mask) continue;
    ++masks;
    expect(line.ends_with("\t0000000000000000"), line);
  }
  expect_equal("masks", masks, 5);
}

void exit_codes_are_counted() {
  Server server({program(R"("/bin/sh", "-c", "read code; exit $code")")});
  const char* kCodes[] = {"0\n", "1\n", "3\n", "0\n", "99\n"};
  for (const char* code : kCodes) {
    Client client(server.address());
    client.send(code);
    expect_equal("output", client.read_until_eof(), "");
  }
  server.wait_for("/connections/served", 2);
  server.wait_for("/connections/failed", 3);
  Json pool = server.pool();
  expect_equal("state", pool["state"], "running");
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
}

void many_failures_do_not_trip_the_breaker() {
  Server server({program("\"/bin/false\"")});
  for (int i = 0; i < 12; ++i) Client(server.address()).read_until_eof();
  server.wait_for("/connections/failed", 12);
  expect_equal("state", server.pool()["state"], "running");
}

void a_program_that_crashes() {
  Server server({program(R"("/bin/sh", "-c", "kill -SEGV $$")")});
  expect(Client(server.address()).is_ended(), "the client sees the end");
  server.wait_for("/connections/failed", 1);
  server.wait_for("/lifetime/crashed", 1);
}

void a_program_that_is_gone() {
  TestFolder folder;
  std::string path = folder.file("served");
  std::filesystem::copy_file("/bin/cat", path);
  Server server({program("\"" + path + "\"")});
  expect(Client(server.address()).echoes("hello\n"), "echo");
  server.wait_for("/connections/served", 1);
  unlink(path.c_str());
  // (Who dies before the death before it was noted belongs to the same round: see supervisor/breaker.h.)
  server.wait_until("the pool is degraded", kPatience, [&] {
    expect(Client(server.address()).is_ended(), "the client sees the end");
    return server.pool()["state"] == "degraded";
  });
  expect(server.pool()["connections"]["failed"] >= 5, "they count as failed");
  server.wait_for_log("execute " + path + ": No such file or directory");
  std::filesystem::copy_file("/bin/cat", path);
  Client patient(server.address());
  expect(patient.echoes("again\n", kPatience * 2), "served when it is back");
  patient.half_close();
  expect(patient.is_ended(), "to the end");
  server.wait_for("/state", "running");
}

void its_children_end_with_it() {
  Server server({program(R"("/bin/sh", "-c", "sleep 1000 & echo $!; wait")", "connection = 0.5;")});
  Client client(server.address());
  pid_t child = std::stoi(client.read_line());
  expect(is_running(child), "the program's child runs");
  expect(client.is_ended(), "the client sees the end");
  wait_until("the program's child has ended", kPatience, [&] { return !is_running(child); });
  server.wait_for("/lifetime/timed_out", 1);
  server.wait_for("/connections/failed", 1);
}

void a_program_that_ignores_term() {
  Server server(
      {program(R"("/bin/sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait; wait; read never")",
               "connection = 0.5;")});
  Client client(server.address());
  pid_t child = std::stoi(client.read_line());
  expect(client.is_ended(), "the client sees the end");
  wait_until("the program's child has ended", kPatience, [&] { return !is_running(child); });
  server.wait_for("/lifetime/timed_out", 1);
}

// Its client has its end; the worker is busy with it until its time is over.
void a_program_that_closes_and_stays() {
  Server server(
      {program(R"("/bin/sh", "-c", "exec <&- >&-; exec sleep 1000")", "connection = 0.5;")});
  expect(Client(server.address()).is_ended(), "the client sees the end");
  server.wait_for("/lifetime/timed_out", 1);
  server.wait_for_log("(timeouts.connection)");
  server.wait_for("/connections/failed", 1);
  server.wait_for("/workers/busy", 0);
  server.wait_for("/state", "running");
}

// It asked for that, and has it until the daemon ends.
void a_child_in_a_session_of_its_own() {
  pid_t child = 0;
  {
    Server server({program(R"("/bin/sh", "-c", "setsid sleep 1000 <&- >&- 2>&- & echo $!")")});
    Client client(server.address());
    child = std::stoi(client.read_line());
    expect(client.is_ended(), "the program has ended");
    server.signal(SIGTERM);
    expect_equal("exit code", server.wait_exit(), 0);
  }
  expect(!is_running(child), "nothing outlives the daemon");
}

// Whatever is wrong with it is said before a client comes: by a check, by a reload, which is refused.
void what_cannot_be_executed() {
  TestFolder folder;
  const std::string script = folder.write("script", "#!/bin/sh\nexec cat\n", 0755);
  std::string foreign = file_text("/bin/true");
  foreign[18] = 22;  // of a S/390: e_machine
  foreign[19] = 0;
  const struct {
    std::string name, path, reason;
  } rows[] = {
      {"crlf", folder.write("crlf", "#!/bin/sh\r\nexec cat\r\n", 0755), "and a CR"},
      {"plain", folder.write("plain", "exec cat\n", 0755), "neither a binary"},
      {"empty", folder.write("empty", "", 0755), "neither a binary"},
      {"foreign", folder.write("foreign", foreign, 0755), "neither a binary"},
      {"lost", folder.write("lost", "#!/no/such/sh\n", 0755), "/no/such/sh: No such file"},
      {"env", folder.write("env", "#!/usr/bin/env no_such_sh\n", 0755), "not found in $PATH"},
      {"closed", folder.write("closed", "#!/bin/sh\n", 0644), "Permission denied"},
      {"folder", folder.path(), "not a regular file"},
  };
  const PoolText good{.name = "good",
                      .serves = "program = [ \"" + script + "\" ];",
                      .workers = "min = 1; max = 2;"};
  std::vector<PoolText> pools = {good};
  for (const auto& row : rows)
    for (const char* key : {"program", "serve"}) {
      pools.push_back(good);
      pools.back().name = row.name + "_" + key;
      pools.back().serves = std::string(key) + " = [ \"" + row.path + "\" ];";
    }
  const std::string file = folder.write("conf", config_of(pools));
  const Outcome check = run({built("preforkd"), "-t", "-c", file});
  expect_equal("exit code of a check", check.code, 78);
  for (const auto& row : rows)
    for (const std::string key : {"program", "serve"}) {
      const size_t at = check.err.find(": " + key + ": execute " + row.path + ": ");
      const std::string line =
          at == check.err.npos ? "" : check.err.substr(at, check.err.find('\n', at) - at);
      expect_contains(row.name + " " + key, line, row.reason);
    }
  expect(check.err.find(script) == check.err.npos, "the good one is not complained about");

  Server server({good});
  server.write_config(config_of({pools.at(0), pools.at(1)}));
  const Answer reload = server.request("POST", "/v1/reload");
  expect_equal("a reload", reload.status, 409);
  expect_contains("its reason", reload.body, "its first line ends with CR LF");
  Client client(server.address("good"));
  expect(client.echoes("hello\n"), "what can be executed serves");
}

}  // namespace

Suite program_suite() {
  return {"program",
          {{"cat echoes", cat_echoes},
           {"arguments are passed", arguments_are_passed},
           {"environment", environment},
           {"descriptors", descriptors},
           {"stderr is the log", stderr_is_the_log},
           {"signals are as for any program", signals_are_as_for_any_program},
           {"exit codes are counted", exit_codes_are_counted},
           {"many failures do not trip the breaker", many_failures_do_not_trip_the_breaker},
           {"a program that crashes", a_program_that_crashes},
           {"a program that is gone", a_program_that_is_gone},
           {"what cannot be executed", what_cannot_be_executed},
           {"its children end with it", its_children_end_with_it},
           {"a program that ignores TERM", a_program_that_ignores_term},
           {"a program that closes 0 and 1 and stays", a_program_that_closes_and_stays},
           {"a child in a session of its own", a_child_in_a_session_of_its_own}}};
}

}  // namespace preforkd::system_test
