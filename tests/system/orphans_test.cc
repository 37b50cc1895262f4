// The daemon and a supervisor killed, one after the other, while workers are busy: with what they serve they go on, and the
// pool's addresses they leave at once, whatever they are doing. Another daemon serves there meanwhile.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

enum class First { kDaemon, kSupervisor };

// Those of pool_at().
std::vector<std::string> addresses_of(Server& server) {
  return {server.address("echo", 0), server.address("echo", 1), server.address("echo", 2)};
}

// A stopped one sees nothing of the other's death before its own. Workers hear of it when they have the processor next.
void kill_both(Server& server, First first) {
  const pid_t supervisor = server.supervisor(), daemon = server.pid();
  const pid_t later = first == First::kDaemon ? supervisor : daemon;
  const std::vector<std::string> addresses = addresses_of(server);
  kill(later, SIGSTOP);
  wait_until("it is stopped", kPatience,
             [&] { return doing(later).find("T (stopped)") != std::string::npos; });
  if (first == First::kDaemon) {
    server.signal(SIGKILL);
    server.wait_exit();
    kill(supervisor, SIGKILL);
  } else {
    kill(supervisor, SIGKILL);
    server.signal(SIGKILL);
    server.wait_exit();
  }
  for (const std::string& address : addresses)
    wait_until(address + " is nobody's", kPatience, [&] { return !Client::try_connect(address); });
}

PoolText pool_at(const TakenPort& port, const std::string& serves,
                 const std::string& workers = "min = 1; max = 8; min_spare = 1;") {
  return {.listen = port.quoted() + ", \"unix:@DIR@/sock\", \"unix:@@DIR@/abstract\"",
          .serves = serves,
          .workers = workers};
}

// Nothing of the addresses was in anybody's hands.
void expect_served_at_once(Server& server, const std::string& after) {
  expect_equal("the state after " + after, server.pool()["state"], "running");
  expect_equal("addresses that were in use after " + after,
               occurrences(server.log(), "Address already in use"), 0u);
  for (const std::string& address : addresses_of(server)) {
    Client next(address);
    next.send("p");
    expect(!next.read_line().empty(), address + " is served after " + after);
  }
}

// Each is in another's hands in the moment: spinning, in a call that goes on, in one that does not, in its start.
void busy_handlers() {
  for (const First first : {First::kDaemon, First::kSupervisor}) {
    const std::string after = first == First::kDaemon ? "daemon first" : "supervisor first";
    TakenPort port;
    port.free();
    Server server({pool_at(port, unruly("start_while = \"@DIR@/hang\";"))});
    Client spins(port.address()), blocks(port.address()), reads(port.address());
    const pid_t spinning = pid_serving(spins), blocked = pid_serving(blocks),
                reading = pid_serving(reads);
    spins.send("s");
    blocks.send("b");
    server.wait_for("/workers/idle",
                    1);  // for the next client: who starts from now on does not come through
    server.folder().write("hang", "");
    Client another(port.address());
    pid_serving(another);
    server.wait_for("/workers/starting", 1);
    kill_both(server, first);
    unlink(server.folder().file("hang").c_str());
    server.start_again();
    expect_served_at_once(server, after);
    expect_equal("a long connection goes on, " + after, pid_serving(reads), reading);
    reads.half_close();
    expect(reads.is_ended(), "and ends, " + after);
    wait_until("its worker has left", kPatience, [&] { return !is_running(reading); });
    for (const pid_t pid : {spinning, blocked}) {
      expect(is_running(pid), "who is busy is left alone, " + after);
      kill(pid, SIGKILL);
    }
    another.close();
  }
}

// As much for programs that accept by themselves.
void busy_programs() {
  if (are_sanitized()) return skip("no interpreter with sanitizers");
  const char* const kPython =
      "import os, time, preforkd\n"
      "for c in preforkd.connections():\n"
      "    while (order := c.recv(1)):\n"
      "        if order == b'p': c.sendall(b'%d\\n' % os.getpid())\n"
      "        if order == b'n': time.sleep(60)\n"
      "        while order == b's': pass\n";
  const char* const kPerl =
      "use Preforkd;\n"
      "while (my $connection = Preforkd->next) {\n"
      "  my $c = $connection->handle;\n"
      "  while (sysread($c, my $order, 1)) {\n"
      "    syswrite($c, \"$$\\n\") if $order eq 'p';\n"
      "    sleep 60 if $order eq 'n';\n"
      "    while ($order eq 's') {}\n"
      "  }\n"
      "}\n";
  TestFolder scripts;
  const std::vector<std::pair<std::string, std::string>> programs = {
      {"python3", scripts.write("app.py", kPython)}, {"perl", scripts.write("app.pl", kPerl)}};
  for (const auto& [interpreter, script] : programs)
    for (const First first : {First::kDaemon, First::kSupervisor}) {
      TakenPort port;
      port.free();
      Server server({pool_at(port, "serve = [ \"" + interpreter + "\", \"" + script + "\" ];")});
      Client spins(port.address()), sleeps(port.address()), reads(port.address());
      const pid_t spinning = pid_serving(spins), asleep = pid_serving(sleeps),
                  reading = pid_serving(reads);
      spins.send("s");
      sleeps.send("n");
      kill_both(server, first);
      server.start_again();
      expect_served_at_once(server, interpreter);
      expect_equal("a long connection goes on in " + interpreter, pid_serving(reads), reading);
      reads.half_close();
      expect(reads.is_ended(), "and ends");
      wait_until("its worker has left", kPatience, [&] { return !is_running(reading); });
      kill(spinning, SIGKILL);
      kill(asleep, SIGKILL);
    }
}

// The daemon alone: who waits in a queue hears at once that nobody comes, though the pool's only worker goes on.
void who_waits() {
  TakenPort port;
  port.free();
  Server server({pool_at(port, unruly(), "min = 1; max = 1; min_spare = 0;")});
  Client reads(port.address());
  const pid_t reading = pid_serving(reads);
  std::vector<Client> waiting;
  for (const std::string& address : addresses_of(server)) waiting.emplace_back(address);
  server.wait_for("/backlog/queued", 3);
  server.signal(SIGKILL);
  server.wait_exit();
  for (Client& client : waiting) expect(client.is_ended(), "who waits hears of it");
  expect_equal("a long connection goes on", pid_serving(reads), reading);
}

// The daemon lives: what its next supervisor accepts from is what it was, and a client who waits is not lost.
void the_supervisor_alone() {
  TakenPort port;
  port.free();
  Server server({pool_at(port, unruly(), "min = 1; max = 1; min_spare = 0;")});
  struct stat before {
  }, after{};
  const std::string path = server.folder().file("sock");
  expect_equal("stat", stat(path.c_str(), &before), 0);
  Client reads(port.address());
  const pid_t reading = pid_serving(reads);
  Client waits(port.address());
  waits.send("p");
  kill(server.supervisor(), SIGKILL);
  expect(!waits.read_line().empty(), "who waited is served by the next generation");
  expect_equal("stat", stat(path.c_str(), &after), 0);
  expect_equal("the path's socket", after.st_ino, before.st_ino);
  expect_equal("a long connection goes on", pid_serving(reads), reading);
  waits.close();
  server.wait_for("/state", "running");  // it says so a moment after it serves
  expect_served_at_once(server, "the supervisor's death");
  reads.half_close();
  expect(reads.is_ended(), "and ends");
  server.wait_for("/connections/failed", 0);
}

// From anybody else the signal means nothing.
void somebody_elses_signal() {
  TakenPort port;
  port.free();
  Server server({pool_at(port, unruly(), "min = 1; max = 1; min_spare = 0;")});
  const pid_t worker = server.worker_pids().at(0);
  kill(worker, SIGUSR2);
  Client reads(port.address());
  expect_equal("it serves", pid_serving(reads), worker);
  kill(worker, SIGUSR2);
  expect_equal("it goes on", pid_serving(reads), worker);
  reads.close();
  for (int i = 0; i < 3; ++i) {
    Client next(server.address("echo", static_cast<size_t>(i)));
    expect_equal("and serves", pid_serving(next), worker);
  }
}

}  // namespace

Suite orphans_suite() {
  return {"orphans",
          {{"busy handlers", busy_handlers},
           {"busy programs", busy_programs},
           {"who waits", who_waits},
           {"the supervisor alone", the_supervisor_alone},
           {"somebody else's signal", somebody_elses_signal}}};
}

}  // namespace preforkd::system_test
