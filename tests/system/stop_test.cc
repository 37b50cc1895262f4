// The end: graceful, at once, of one pool only, and while the pool is still starting.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

void wait_until_stopping(Server& server) {
  server.wait_until("it is stopping", kPatience,
                    [&] { return server.status()["stopping"] == true; });
}

void wait_until_refused(const std::string& address) {
  wait_until("new connections are refused", kPatience,
             [&] { return !Client::try_connect(address).has_value(); });
}

void busy_ones_finish() {
  Server server({PoolText{}, PoolText{.name = "local", .listen = "\"unix:@DIR@/local.sock\""},
                 PoolText{.name = "cat", .serves = "program = [ \"/bin/cat\" ];"}});
  std::vector<std::string> addresses;
  std::vector<Client> clients;
  for (const char* pool : {"echo", "local", "cat"}) {
    addresses.push_back(server.address(pool));
    clients.emplace_back(addresses.back());
    expect(clients.back().echoes("before\n"), "echo");
  }
  server.signal(SIGTERM);
  wait_until_stopping(server);
  for (const std::string& address : addresses) wait_until_refused(address);
  for (Client& client : clients) {
    expect(client.echoes("after\n"), "a busy one goes on");
    client.half_close();
    expect_equal("the rest", client.read_until_eof(), "");
  }
  expect_equal("exit code", server.wait_exit(), 0);
  expect_equal("the socket's file is there",
               access(server.folder().file("local.sock").c_str(), F_OK), -1);
  expect_equal("the control socket is there", access(server.socket().c_str(), F_OK), -1);
}

void queued_ones_are_served() {
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 1;"}});
  Client busy(server.address());
  expect(busy.echoes("busy\n"), "echo");
  std::vector<Client> queued;
  for (int i = 0; i < 5; ++i) {
    queued.emplace_back(server.address());
    queued.back().send("queued\n");
    queued.back().half_close();
  }
  server.wait_for("/backlog/queued", 5);
  server.signal(SIGTERM);
  wait_until_stopping(server);
  busy.half_close();
  for (Client& client : queued) expect_equal("answer", client.read_until_eof(), "queued\n");
  expect_equal("exit code", server.wait_exit(), 0);
}

// Each program serves one connection: those who wait are served by others.
void queued_ones_of_programs() {
  Server server({PoolText{.serves = "program = [ \"/bin/sh\", \"-c\", \"read x; echo $x\" ];",
                          .workers = "min = 1; max = 1; min_spare = 0;"}});
  Client busy(server.address());
  server.wait_for("/workers/busy", 1);
  std::vector<Client> queued;
  for (int i = 0; i < 5; ++i) {
    queued.emplace_back(server.address());
    queued.back().send("queued\n");
  }
  server.wait_for("/backlog/queued", 5);
  server.signal(SIGTERM);
  wait_until_stopping(server);
  busy.send("busy\n");
  expect_equal("answer", busy.read_until_eof(), "busy\n");
  for (Client& client : queued) expect_equal("answer", client.read_until_eof(), "queued\n");
  expect_equal("exit code", server.wait_exit(), 0);
}

// Nor does a worker's death leave those alone who wait behind it.
void queued_ones_behind_a_death() {
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 0;"}});
  Client busy(server.address());
  expect(busy.echoes("busy\n"), "echo");
  Client queued(server.address());
  queued.send("queued\n");
  queued.half_close();
  server.wait_for("/backlog/queued", 1);
  const pid_t worker = server.worker_pids().at(0);
  server.signal(SIGTERM);
  wait_until_stopping(server);
  kill(worker, SIGKILL);
  expect_equal("answer", queued.read_until_eof(), "queued\n");
  expect_equal("exit code", server.wait_exit(), 0);
}

// Whose SYN came in time is not refused afterwards: his side believes that he is connected. (What stands for the last
// step of a handshake that is on its way, is here its middle, which is dropped: the kernel sends it again after 1 s.)
void handshakes_are_finished() {
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 0;"}});
  Client late = Client::deaf(server.address());
  wait_until("the server shakes hands", kPatience,
             [&] { return is_shaking_hands(server.address()); });
  server.signal(SIGTERM);
  wait_until_stopping(server);
  late.hear_again();
  late.send("late\n");
  late.half_close();
  expect_equal("answer", late.read_until_eof(), "late\n");
  expect_equal("exit code", server.wait_exit(), 0);
}

void no_client_is_lost_under_load() {
  Server server({PoolText{}});
  std::string address = server.address();
  // Refused is an answer; a connection that was taken in and dropped is not.
  std::atomic<bool> over{false};
  std::atomic<int> served{0}, lost{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        while (!over) {
          auto client = Client::try_connect(address);
          if (!client) return;
          try {
            short_echo(*client);
            ++served;
          } catch (const Failure&) {
            ++lost;
          }
        }
      });
    server.wait_until("the load has begun", kPatience, [&] { return served > 100; });
    server.signal(SIGTERM);
    expect_equal("exit code", server.wait_exit(), 0);
    over = true;
  }
  expect_equal("lost", lost.load(), 0);
}

void at_once(const std::vector<int>& signals) {
  Server server({PoolText{.serves = unruly()}});
  Client waits(server.address()), stubborn(server.address());
  pid_serving(waits);
  stubborn.send("t");
  server.wait_for("/workers/busy", 2);
  for (size_t i = 0; i < signals.size(); ++i) {
    if (i > 0) wait_until_stopping(server);  // two that are pending at once would be one
    server.signal(signals[i]);
  }
  expect_equal("exit code", server.wait_exit(10), 0);
  expect(waits.is_ended() && stubborn.is_ended(), "clients see the end");
}

void a_second_term() { at_once({SIGTERM, SIGTERM}); }
void an_int() { at_once({SIGINT}); }
void an_int_after_quit() { at_once({SIGQUIT, SIGINT}); }

void drain_timeout() {
  Server server({PoolText{.serves = unruly(), .timeouts = "drain = 0.5;"},
                 PoolText{.name = "sleep",
                          .serves = R"(program = [ "/bin/sleep", "1000" ];)",
                          .timeouts = "drain = 0.3;"}});
  Client stuck(server.address()), waits(server.address()), program(server.address("sleep"));
  stuck.send("t");
  pid_serving(waits);
  server.wait_for("/workers/busy", 2);
  server.wait_for("/workers/busy", 1, "sleep");
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(10), 0);
  expect(stuck.is_ended() && waits.is_ended() && program.is_ended(), "clients see the end");
  expect_contains("the log", server.log(), "not done in time");
}

void one_pool_drains_and_resumes() {
  Server server({PoolText{}, PoolText{.name = "other"}});
  std::string address = server.address();
  Client busy(address);
  expect(busy.echoes("before\n"), "echo");
  Outcome drain = server.ctl({"drain", "echo"});
  expect_equal("exit code of drain: " + drain.err, drain.code, 0);
  server.wait_for("/state", "draining");
  expect(busy.echoes("during\n"), "a busy one goes on");
  server.wait_for("/workers/total", 1);
  Client waiting(address);
  waiting.send("waited\n");
  server.wait_for("/backlog/queued", 1);
  busy.half_close();
  expect(busy.is_ended(), "and finishes");
  server.wait_for("/state", "stopped");
  server.wait_for("/workers/total", 0);
  expect(!waiting.has_answer(), "one who came later waits");
  expect(Client(server.address("other")).echoes("hello\n"), "the other pool serves");
  expect_equal("draining again", server.request("POST", "/v1/pools/echo/drain").status, 409);
  Outcome resume = server.ctl({"resume", "echo"});
  expect_equal("exit code of resume: " + resume.err, resume.code, 0);
  expect_equal("the one who waited", waiting.read_line(), "waited");
  server.wait_for("/state", "running");
  expect_equal("resuming again", server.request("POST", "/v1/pools/echo/resume").status, 409);
  server.wait_for("/connections/served", 1);
  expect_equal("accepted", server.pool()["connections"]["accepted"], 2);
}

// A resumed pool must not stumble over what the generation before still does.
void resume_while_it_drains() {
  Server server({PoolText{}});
  Client busy(server.address());
  expect(busy.echoes("before\n"), "echo");
  expect_equal("drain", server.request("POST", "/v1/pools/echo/drain").status, 200);
  Client waiting(server.address());
  waiting.send("waited\n");
  expect_equal("resume", server.request("POST", "/v1/pools/echo/resume").status, 200);
  expect_equal("the one who waited", waiting.read_line(), "waited");
  expect(busy.echoes("after\n"), "the busy one goes on");
  server.wait_for("/state", "running");
  busy.half_close();
  expect(busy.is_ended(), "and finishes");
  server.wait_for("/connections/served", 1);
  server.wait_for("/connections/active", 1);
}

void by_request() {
  Server server({PoolText{}});
  Client busy(server.address());
  expect(busy.echoes("hello\n"), "echo");
  Answer answer = server.request("POST", "/v1/stop");
  expect_equal("status: " + answer.body, answer.status, 200);
  Answer late = server.request("PATCH", "/v1/pools/echo/limits", R"({"min": 5})");
  expect_equal("status of a change while stopping: " + late.body, late.status, 503);
  expect(busy.echoes("hello\n"), "the busy one goes on");
  busy.half_close();
  expect_equal("exit code", server.wait_exit(), 0);
  Outcome gone = server.ctl({"status"});
  expect_equal("exit code of status afterwards", gone.code, 3);
}

void while_starting() {
  Server server({PoolText{.serves = unruly("start_ms = 60000;")}}, {.wait_until_ready = false});
  server.wait_until("workers are starting", kPatience,
                    [&] { return server.pool()["workers"]["starting"] >= 4; });
  expect_equal("state", server.pool()["state"], "starting");
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(10), 0);
}

void at_any_moment_of_the_start() {
  for (int round = 0; round < 25; ++round) {
    Server server({PoolText{}, PoolText{.name = "b"}}, {.wait_until_ready = false});
    // Not an event that is waited for: the moment is what is tried out.
    timespec pause = to_timespec(static_cast<Nanoseconds>(round) * kMillisecond);
    nanosleep(&pause, nullptr);
    // Before anything listens, TERM may end it the plain way.
    bool handled = server.log().find("listening on ") != std::string::npos;
    server.signal(SIGTERM);
    int code = server.wait_exit(10);
    expect(code == 0 || (!handled && code == 128 + SIGTERM), "exit code " + std::to_string(code));
  }
}

}  // namespace

Suite stop_suite() {
  return {"stop",
          {{"busy ones finish", busy_ones_finish},
           {"queued ones are served", queued_ones_are_served},
           {"queued ones of programs", queued_ones_of_programs},
           {"queued ones behind a death", queued_ones_behind_a_death},
           {"handshakes are finished", handshakes_are_finished},
           {"no client is lost under load", no_client_is_lost_under_load},
           {"a second TERM", a_second_term},
           {"an INT", an_int},
           {"an INT after QUIT", an_int_after_quit},
           {"drain timeout", drain_timeout},
           {"one pool drains and resumes", one_pool_drains_and_resumes},
           {"resume while it drains", resume_while_it_drains},
           {"by request", by_request},
           {"while starting", while_starting},
           {"at any moment of the start", at_any_moment_of_the_start}}};
}

}  // namespace preforkd::system_test
