// What systemd and the journal are told, and so a person who asks them: events, the status, and how long
// starting, reloading and stopping may take.
#include "base/clock.h"
#include "base/event.h"
#include "tests/system/conditions.h"
#include "tests/system/machine.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

std::string match(Event event) { return std::string("MESSAGE_ID=") + event_id(event); }

// The events of this kind so far, a line each.
std::string events(Machine& machine, Event event) {
  return machine.must({"journalctl", "-o", "cat", "-q", "--no-pager", match(event)});
}

void wait_for_event(Machine& machine, Event event, const std::string& lines) {
  wait_until("in the journal: " + lines, kPatience,
             [&] { return events(machine, event) == lines; });
}

void wait_for_part_of_event(Machine& machine, Event event, const std::string& part) {
  wait_until("in the journal: " + part, kPatience,
             [&] { return events(machine, event).find(part) != std::string::npos; });
}

void wait_for_one_event(Machine& machine, Event event) {
  wait_until("it is in the journal once", kPatience,
             [&] { return occurrences(events(machine, event), "\n") == 1; });
}

void wait_for_status(Machine& machine, const std::string& part) {
  wait_until("the status says: " + part, kPatience,
             [&] { return machine.property("StatusText").find(part) != std::string::npos; });
}

std::string slow_pool(int start_ms, const std::string& more = "") {
  return "control = { web = \"\"; };\npools = ( { name = \"echo\"; listen = [ \"127.0.0.1:7007\" "
         "];\n"
         "  handler = \"unruly\"; settings = { start_ms = " +
         std::to_string(start_ms) + "; " + more + " }; workers = { min = 1; max = 2; }; } );\n";
}

// --- the tests -----------------------------------------------------------------------------------

void expect_events(Machine& machine) {
  machine.must({"systemctl", "start", "preforkd.service"});
  wait_for_event(machine, Event::kPoolReady, "pool echo: ready\n");
  const std::string worker =
      Json::parse(machine.must({"preforkctl", "--json", "workers", "echo"}))[0]["pid"].dump();
  machine.must({"kill", "-ABRT", worker});
  wait_for_event(machine, Event::kWorkerDied,
                 "pool echo: worker " + worker + ": killed by signal 6 (Aborted)\n");
  const std::string explained =
      machine.must({"journalctl", "-x", "--no-pager", "PREFORKD_WORKER=" + worker});
  expect_contains("the catalogue", explained, "Subject: Pool echo: worker " + worker + " died\n");
  expect_contains("the catalogue", explained, " preforkctl status echo\n");

  machine.must({"pkill", "-KILL", "-x", "preforkd-superv"});
  wait_for_event(machine, Event::kSupervisorDied,
                 "pool echo: supervisor of generation 1 killed by signal 9 (Killed)\n");
  wait_for_event(machine, Event::kPoolRecovered, "pool echo: ready\n");
  wait_for_event(machine, Event::kGenerationEnded, "pool echo: generation 1 has ended\n");
  machine.expect_served("the echo");
  machine.must({"systemctl", "stop", "preforkd.service"});
  expect_equal("result of stop", machine.property("Result"), "success");
  machine.expect_nothing_left();
}

void events_are_found_and_explained() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->configure(echo_on_machine("min = 1; max = 2;"));
  expect_events(*machine);
}

void events_of_pools_with_users() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->must({"install", "-D", "-m", "644", "-t", "/etc/systemd/system/preforkd.service.d",
                 "/usr/local/share/doc/preforkd/pool-users.conf"});
  machine->must({"systemctl", "daemon-reload"});
  machine->configure(echo_on_machine("min = 1; max = 2;", "127.0.0.1:7007", "user = \"nobody\";"));
  expect_events(*machine);
}

void status_of_a_degraded_pool() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->add_handler("unruly");
  machine->configure(slow_pool(0, "crash_while = \"/run/crash\";"));
  machine->must({"systemctl", "start", "preforkd.service"});
  machine->must({"touch", "/run/crash"});
  machine->must({"sh", "-c", "kill -ABRT $(pgrep -f '^preforkd: worker')"});
  wait_for_status(*machine, "0 of 1 pools running; echo is degraded: ");
  expect_contains(
      "the status", machine->must({"systemctl", "status", "preforkd.service"}),
      "workers died in a row, the last one killed by signal 6 (Aborted) while starting");
  wait_for_part_of_event(*machine, Event::kPoolDegraded, "pool echo: degraded: ");
  machine->must({"rm", "/run/crash"});
  machine->must({"preforkctl", "recycle", "echo"});
  wait_for_status(*machine, "1 of 1 pools running");
}

void status_of_a_refused_reload() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->add_handler("unruly");
  machine->configure(slow_pool(0));
  machine->must({"systemctl", "start", "preforkd.service"});
  machine->configure(slow_pool(0, "fail_preload = true;"));
  expect(machine->exec({"systemctl", "reload", "preforkd.service"}).code != 0, "reload fails");
  const std::string reason =
      "/etc/preforkd/preforkd.conf:3: pool echo: the new generation failed: preload ";
  expect_contains("the status", machine->must({"systemctl", "status", "preforkd.service"}),
                  "Status: \"1 of 1 pools running; the last reload was refused, and nothing was "
                  "changed: " +
                      reason);
  wait_for_part_of_event(*machine, Event::kReloadRefused, reason);
  machine->configure(slow_pool(1));
  machine->must({"systemctl", "reload", "preforkd.service"});
  expect_equal("the status", machine->property("StatusText"), "1 of 1 pools running");
  wait_for_one_event(*machine, Event::kReloaded);
}

// Each takes longer than systemd alone would wait.
void slow_start_and_reload() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->add_handler("unruly");
  machine->add_to_service("impatient", "TimeoutStartSec=2");
  machine->configure(slow_pool(4000));
  machine->must({"systemctl", "start", "--no-block", "preforkd.service"});
  wait_for_status(*machine, "Starting: 0 of 1 pools running; echo is starting");
  wait_until("it is active", kPatience, [&] { return machine->is_active(); });
  expect_equal("restarts", machine->property("NRestarts"), "0");

  machine->configure(slow_pool(4001));
  machine->must({"systemctl", "reload", "--no-block", "preforkd.service"});
  wait_for_status(*machine, "Reloading /etc/preforkd/preforkd.conf: trying out echo");
  wait_for_status(*machine, "1 of 1 pools running");
  wait_until("it is active", kPatience, [&] { return machine->is_active(); });
  expect_equal("result of reload", machine->property("ReloadResult"), "success");
  expect_equal("generation", machine->pool()["generation"].get<int>(), 2);
}

// The image that takes over says READY, and not before it is true.
void upgrade_while_it_starts() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->add_handler("unruly");
  machine->configure(slow_pool(0, "start_while = \"/run/hold\";"));
  machine->must({"touch", "/run/hold"});
  machine->must({"systemctl", "start", "--no-block", "preforkd.service"});
  wait_for_status(*machine, "Starting: ");
  machine->must({"preforkctl", "upgrade"});
  expect_equal("state", machine->property("ActiveState"), "activating");
  machine->must({"rm", "/run/hold"});
  wait_until("it is active", kPatience, [&] { return machine->is_active(); });
  expect_equal("the pool of an active service", machine->pool()["state"], "running");
  expect_equal("restarts", machine->property("NRestarts"), "0");
  wait_for_one_event(*machine, Event::kUpgraded);
}

// A client who takes longer than systemd alone would wait is served to the end.
void slow_stop() {
  auto machine = Machine::boot();
  if (!machine) return;
  machine->add_to_service("impatient", "TimeoutStopSec=2");
  machine->configure(echo_on_machine("min = 3; max = 9;"));
  machine->must({"systemctl", "start", "preforkd.service"});
  machine->hold_a_client();
  const Nanoseconds began = monotonic_now();
  machine->must({"systemctl", "stop", "--no-block", "preforkd.service"});
  wait_for_status(*machine, "Stopping: connections in service: 1; what is not done by ");
  wait_until("systemd's own patience is over", kPatience,
             [&] { return monotonic_now() - began >= 4 * kSecond; });
  expect_equal("state", machine->property("ActiveState"), "deactivating");
  machine->let_it_go();
  wait_until("it has stopped", kPatience,
             [&] { return machine->property("ActiveState") == "inactive"; });
  expect_equal("result of stop", machine->property("Result"), "success");
  expect_equal("what the client got", machine->held_client_heard(), "begin\nend\n");
  expect_equal("ended by force", events(*machine, Event::kDrainForced), "");
  machine->expect_nothing_left();
}

}  // namespace

Suite notify_suite() {
  return {"notify",
          {{"events are found and explained", events_are_found_and_explained},
           {"events of pools with users", events_of_pools_with_users},
           {"status of a degraded pool", status_of_a_degraded_pool},
           {"status of a refused reload", status_of_a_refused_reload},
           {"a slow start, a slow reload", slow_start_and_reload},
           {"an upgrade while it starts", upgrade_while_it_starts},
           {"a slow stop", slow_stop}}};
}

}  // namespace preforkd::system_test
