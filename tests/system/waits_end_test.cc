// Of the suite `waits`: what preforkd waits for before it serves, when it becomes another image, and when it ends.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/installation.h"
#include "tests/system/trust.h"
#include "tests/system/waits.h"

namespace preforkd::system_test {
namespace {

constexpr double kSlack = 3;  // seconds beyond a deadline, on a machine with others on it
constexpr double kTakeover = 1;

// --- another image -------------------------------------------------------------------------------

void a_rehearsal() {
  Installation installed;
  Watched watched({}, {.program = installed.preforkd()});
  Server& server = watched.server;
  installed.install(built("tests/system/images/lingers"));  // long enough to be stopped
  Client upgrade = begin_request(server, "POST", "/v1/upgrade");
  kill(server.wait_for_process("preforkd: rehearsal"), SIGSTOP);
  watched.until("the upgrade is answered", 10 + kSlack, [&] { return upgrade.has_answer(); });
  expect_contains("the answer", upgrade.read_line(), " 409 ");
  server.wait_for_log("upgrade refused, nothing has happened: the rehearsal: killed by signal 9");
}

// The one wait in which there is no loop that could go on: the image that hangs has taken its place.
void a_takeover() {
  Installation installed;
  Watched watched({}, {.program = installed.preforkd()});
  installed.install(built("tests/system/images/hangs"));
  Client upgrade = begin_request(watched.server, "POST", "/v1/upgrade");
  const Nanoseconds began = monotonic_now();
  watched.is_on_its_own(true);
  watched.until("the upgrade is answered", kTakeover + kSlack,
                [&] { return upgrade.has_answer(); });
  const double took = to_seconds(monotonic_now() - began);
  expect(took < kTakeover + slowness(),
         "the old image is back after " + std::to_string(took) + " s");
  expect_contains("the answer", upgrade.read_line(), " 409 ");
  watched.is_on_its_own(false);
  watched.until("it goes on", kPatience, [] { return true; });
}

// --- the end -------------------------------------------------------------------------------------

void a_stop() {
  Server server({maddening()});
  const pid_t supervisor = go_mad(server);
  expect_stops(server, 1 + 5 + kSlack);
  expect_contains("the log", server.log(),
                  "supervisor " + std::to_string(supervisor) + " was told to leave and has not");
}

// TERM a second time: nobody is finished first.
void a_stop_at_once() {
  Server server({stubborn()});
  const ServedForEver served(server);
  const pid_t supervisor = supervisor_of(server, "bad");
  kill(supervisor, SIGSTOP);
  server.signal(SIGINT);
  expect_equal("exit code", server.wait_exit(3 + kSlack), 0);
  expect(!is_running(supervisor) && !is_running(served.worker), "both are killed");
}

// Who is traced is not gone before its tracer has looked, whatever kills it.
void what_does_not_end() {
  Server server({stubborn()});
  const pid_t supervisor = supervisor_of(server, "bad"), control = server.control();
  if (ptrace(PTRACE_SEIZE, supervisor, nullptr, nullptr) < 0)
    throw Failure("cannot trace the supervisor");
  server.signal(SIGINT);
  expect_equal("exit code", server.wait_exit(3 + 3 + 2 + kSlack), 0);
  waitpid(supervisor, nullptr, __WALL);
  const std::string is_left = " was killed and does not end";
  expect_contains("the log", server.log(), "process " + std::to_string(supervisor) + is_left);
  expect(server.log().find("process " + std::to_string(control) + is_left) == std::string::npos,
         "control is not named, which nobody has killed");
}

void control_at_the_end() {
  Server server({stubborn()});
  kill(server.control(), SIGSTOP);
  expect_stops(server, 1 + kSlack);
}

void the_log_process_at_the_end() {
  Server server({stubborn()});
  kill(server.log_writer(), SIGSTOP);
  expect_stops(server, 1 + kSlack);
}

// --- the start -----------------------------------------------------------------------------------

// Its 30 s, and what comes then, are in suite `loading`: "nothing takes for ever".
void a_name_at_the_start() {
  if (are_sanitized()) return skip("sanitizers want to be loaded first");
  PoolText pool = stubborn();
  pool.listen = "\"slow.test:0\"";
  Server server({pool}, {.wait_until_ready = false, .in_child = [] {
                           setenv("LD_PRELOAD",
                                  built("tests/system/handlers/slow_names.so").c_str(), 1);
                         }});
  server.wait_until("it is waiting", kPatience,
                    [&] { return doing(server.pid()).find("pause") != std::string::npos; });
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(1), 128 + SIGTERM);
}

}  // namespace

std::vector<Test> waits_for_the_end() {
  return {{"a rehearsal", a_rehearsal},
          {"a takeover", a_takeover},
          {"a stop", a_stop},
          {"a stop at once", a_stop_at_once},
          {"what does not end", what_does_not_end},
          {"control at the end", control_at_the_end},
          {"the log process at the end", the_log_process_at_the_end},
          {"a name at the start", a_name_at_the_start}};
}

}  // namespace preforkd::system_test
