// preforkd.service and preforkd.socket, from the first start to the last stop.
#include <unistd.h>

#include "tests/system/machine.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

void from_start_to_stop() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(echo_on_machine("min = 3; max = 9;"));
  machine->must({"systemctl", "start", "preforkd.service"});
  expect(machine->is_active(), "active after start");
  expect_contains("systemctl status", machine->must({"systemctl", "status", "preforkd.service"}),
                  "Status: \"1 of 1 pools running\"");
  expect_equal("the pool", machine->pool()["state"], "running");
  machine->expect_served("the echo");
  expect_equal("whose processes they are",
               machine->must({"ps", "-o", "user=", "-p", machine->property("MainPID")}),
               "preforkd\n");

  machine->configure(echo_on_machine("min = 5; max = 9;"));
  machine->must({"systemctl", "reload", "preforkd.service"});
  expect_equal("min after the reload", machine->pool()["limits"]["min"].get<int>(), 5);

  machine->configure("pools = (");
  Outcome broken = machine->exec({"systemctl", "reload", "preforkd.service"});
  expect(broken.code != 0, "a reload of a broken configuration fails");
  expect(machine->is_active(), "still active after it");
  expect_equal("min after it", machine->pool()["limits"]["min"].get<int>(), 5);
  machine->expect_served("the echo after it");
  wait_until("it is in the journal", kPatience, [&] {
    return machine->must({"journalctl", "-u", "preforkd", "--no-pager"})
               .find("/etc/preforkd/preforkd.conf:1: syntax error") != std::string::npos;
  });

  machine->must({"systemctl", "stop", "preforkd.service"});
  expect_equal("state after stop", machine->property("ActiveState"), "inactive");
  expect_equal("result of stop", machine->property("Result"), "success");
  machine->expect_nothing_left();
}

void journal_fields() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(echo_on_machine("min = 1; max = 2;"));
  machine->must({"systemctl", "start", "preforkd.service"});
  const std::vector<std::string> lines_of_pool{
      "journalctl", "-u", "preforkd.service", "-o", "cat", "--no-pager", "PREFORKD_POOL=echo"};
  wait_until("the pool's lines are in the journal", kPatience, [&] {
    std::string lines = machine->must(lines_of_pool);
    return occurrences(lines, "listening on 127.0.0.1:7007") == 1 &&
           occurrences(lines, "ready") == 1;
  });
  expect_equal("priority of a line",
               machine->must({"journalctl", "-u", "preforkd.service", "-o", "cat", "--no-pager",
                              "-p", "warning"}),
               "");
}

// Active means that clients are served: the first workers' `start` lasts until a file is gone.
void active_only_when_ready() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(
      "control = { web = \"\"; };\npools = ( { name = \"echo\"; listen = [ \"127.0.0.1:7007\" ]; "
      "handler = \"unruly\"; settings = { start_while = \"/etc/preforkd/wait\"; }; } );");
  machine->add_handler("unruly");
  const std::string wait = machine->add_file("wait");
  machine->must({"systemctl", "start", "--no-block", "preforkd.service"});
  wait_until("preforkd answers", kPatience, [&] {
    return machine->exec({"preforkctl", "status"}).code == 0;
  });
  expect_equal("the pool while its workers start", machine->pool()["state"], "starting");
  expect_equal("the service meanwhile", machine->property("ActiveState"), "activating");
  unlink(wait.c_str());
  wait_until("it is active", kPatience, [&] {
    const bool active = machine->is_active();  // asked first: from then on it must be running
    const std::string state = machine->pool()["state"];
    if (active) expect_equal("the pool of an active service", state, "running");
    return active;
  });
}

void refuses_a_wrong_configuration() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure("pools = ();");
  expect(machine->exec({"systemctl", "start", "preforkd.service"}).code != 0, "start fails");
  expect_equal("state", machine->property("ActiveState"), "failed");
  expect_equal("exit status", machine->property("ExecMainStatus"), "78");
  expect_equal("restarts", machine->property("NRestarts"), "0");
  machine->expect_nothing_left();
}

void socket_activation() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(echo_on_machine("min = 1; max = 4;", "systemd:echo"));
  machine->must({"systemctl", "start", "preforkd.socket"});
  expect_equal("the service before a client", machine->property("ActiveState"), "inactive");
  machine->expect_served("the first client, which starts it");
  wait_until("active after the first client", kPatience, [&] { return machine->is_active(); });
  expect_equal("the address", machine->pool()["listen"].at(0), "127.0.0.1:7007");
  machine->must({"systemctl", "restart", "preforkd.service"});
  machine->expect_served("a client after a restart");
  machine->must({"systemctl", "stop", "preforkd.socket", "preforkd.service"});
  machine->expect_nothing_left();
}

void comes_back_after_a_kill() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(echo_on_machine("min = 1; max = 4;"));
  machine->must({"systemctl", "start", "preforkd.service"});
  machine->kill_daemon();
  machine->wait_for_restart();
  machine->expect_served("the echo");
  machine->must({"systemctl", "stop", "preforkd.service"});
  machine->expect_nothing_left();
}

// A daemon that is stopped without end, by the watchdog. Its pools do not need it meanwhile.
void comes_back_when_it_hangs() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(echo_on_machine("min = 1; max = 4;"));
  machine->add_to_service("watchdog", "WatchdogSec=1\nTimeoutAbortSec=1");
  machine->must({"systemctl", "start", "preforkd.service"});
  machine->must({"systemctl", "kill", "--kill-who=main", "-s", "STOP", "preforkd.service"});
  machine->expect_served("a client of a daemon that is stopped");
  machine->wait_for_restart();
  expect_contains("the journal", machine->must({"journalctl", "-u", "preforkd", "--no-pager"}),
                  "Watchdog timeout");
  machine->expect_served("a client afterwards");
  machine->must({"systemctl", "stop", "preforkd.service"});
  machine->expect_nothing_left();
}

// Clients that come one after the other while the daemon is killed, restarted and reloaded: none is refused, and
// whoever is being served is served to the end. (A client that is refused ends the loop.)
void nobody_is_refused() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(
      echo_on_machine("min = 2; max = 9;", "127.0.0.1:7007\", \"unix:/run/preforkd/echo.sock"));
  machine->must({"systemctl", "start", "preforkd.service"});
  expect_equal("stored sockets", machine->property("NFileDescriptorStore"), "2");
  const std::string loop =
      "(while [ ! -e /tmp/stop ]; do printf 'hi\\n' | nc -N -w 10 127.0.0.1 7007 >>/tmp/tcp.out || "
      "{ echo refused >>/tmp/tcp.out; break; }; "
      "printf 'hi\\n' | nc -N -U -w 10 /run/preforkd/echo.sock >>/tmp/unix.out || "
      "{ echo refused >>/tmp/unix.out; break; }; done; touch /tmp/stopped) >/dev/null 2>&1 "
      "</dev/null &";
  machine->must({"sh", "-c", loop});
  machine->hold_a_client();
  auto count = [&](const std::string& file) {
    return std::stoul("0" + machine->exec({"sh", "-c", "cat " + file + " | wc -l"}).out);
  };
  for (int round = 1; round <= 5; ++round) {
    const auto before = count("/tmp/tcp.out");
    machine->kill_daemon();
    machine->wait_for_restart(round);
    wait_until("clients are served", kPatience, [&] { return count("/tmp/tcp.out") > before + 3; });
  }
  machine->let_it_go();
  wait_until("the long one is done", kPatience,
             [&] { return machine->held_client_heard() == "begin\nend\n"; });
  const auto before = count("/tmp/tcp.out");
  machine->must({"systemctl", "restart", "preforkd.service"});
  wait_until("clients are served", kPatience, [&] { return count("/tmp/tcp.out") > before + 3; });
  machine->must({"sh", "-c", "touch /tmp/stop"});
  wait_until("the clients have stopped", kPatience, [&] {
    return machine->exec({"test", "-e", "/tmp/stopped"}).code == 0;
  });
  for (const char* file : {"/tmp/tcp.out", "/tmp/unix.out"})
    expect_equal(std::string("anything but the echo in ") + file,
                 machine->exec({"grep", "-vc", "^hi$", file}).out, "0\n");
  // What the configuration does not want any more is not kept.
  machine->configure(echo_on_machine("min = 2; max = 9;"));
  machine->must({"systemctl", "reload", "preforkd.service"});
  expect_equal("stored sockets", machine->property("NFileDescriptorStore"), "1");
  machine->must({"systemctl", "stop", "preforkd.service"});
  machine->expect_nothing_left();
}

// Stored sockets belong to a user: another one gets others, by a restart and by a reload, which are stored in their turn.
void sockets_of_another_user() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->must({"install", "-D", "-m", "644", "-t", "/run/systemd/system/preforkd.service.d",
                 "/usr/local/share/doc/preforkd/pool-users.conf"});
  auto configure = [&](const std::string& user) {
    machine->configure(echo_on_machine("min = 2; max = 9;",
                                       "127.0.0.1:7007\", \"unix:/run/preforkd/echo.sock",
                                       "user = \"" + user + "\";"));
  };
  auto expect_of = [&](const std::string& user) {
    expect_equal("stored sockets", machine->property("NFileDescriptorStore"), "2");
    machine->expect_served("the echo of " + user);
    expect_equal("by its path",
                 machine->must({"sh", "-c",
                                "printf 'hi\\n' | nc -N -U -w 10 "
                                "/run/preforkd/echo.sock"}),
                 "hi\n");
    expect_contains("who runs", machine->must({"ps", "-eo", "user=,args="}),
                    user + (user.size() < 8 ? std::string(8 - user.size(), ' ') : "") +
                        " preforkd: supervisor echo");
  };
  auto count = [&](const std::string& text) {
    return occurrences(machine->must({"journalctl", "-u", "preforkd", "--no-pager"}), text);
  };
  const std::string said = "was another user's: closed, with who waited there";
  configure("games");
  machine->must({"systemctl", "start", "preforkd.service"});
  expect_of("games");
  machine->must({"systemctl", "restart", "preforkd.service"});
  expect_of("games");
  expect_equal("said", count(said), 0u);
  configure("daemon");
  machine->must({"systemctl", "restart", "preforkd.service"});
  expect_of("daemon");
  wait_until("it is said", kPatience, [&] { return count(said) == 2; });
  configure("games");
  machine->must({"systemctl", "reload", "preforkd.service"});
  expect_of("games");
  machine->hold_a_client();  // whose supervisor lives as long, without its daemon
  machine->kill_daemon();
  machine->wait_for_restart();
  expect_of("games");
  machine->let_it_go();
  wait_until("the long one is done", kPatience,
             [&] { return machine->held_client_heard() == "begin\nend\n"; });
  expect_equal("sockets that were stored and do not listen", count("stored socket preforkd/"), 0u);
  machine->must({"systemctl", "stop", "preforkd.service"});
  machine->expect_nothing_left();
}

}  // namespace

Suite systemd_suite() {
  return {"systemd",
          {{"from start to stop", from_start_to_stop},
           {"fields in the journal", journal_fields},
           {"active only when ready", active_only_when_ready},
           {"a wrong configuration", refuses_a_wrong_configuration},
           {"socket activation", socket_activation},
           {"comes back after a kill", comes_back_after_a_kill},
           {"comes back when it hangs", comes_back_when_it_hangs},
           {"nobody is refused", nobody_is_refused},
           {"sockets of another user", sockets_of_another_user}}};
}

}  // namespace preforkd::system_test
