#include "tests/system/machine.h"

#include "tests/system/conditions.h"
#include "tests/system/installation.h"

namespace preforkd::system_test {
namespace {

constexpr int kCannotHere = 77;  // sysd's exit code

}  // namespace

std::unique_ptr<Machine> Machine::boot(bool shares_loopback) {
  // (Who may not read a program, and is not dumpable, can neither read its options nor look for leaks.)
  if (are_sanitized())
    return skip("sanitizers and the service's user are in each other's way"), nullptr;
  std::unique_ptr<Machine> machine(new Machine);
  machine->shares_loopback_ = shares_loopback;
  const std::string root = machine->installed_.path();
  install_under(root);
  Outcome up = machine->sysd(
      {"up", root + "/usr/local:/usr/local", root + "/etc/preforkd:/etc/preforkd"}, 60);
  if (up.code == kCannotHere) return skip(up.err), nullptr;
  if (up.code != 0) throw Failure("boot a systemd: " + up.err);
  machine->leader_ = file_text(machine->state_.file("sysd") + "/leader");
  machine->leader_.erase(machine->leader_.find_last_not_of('\n') + 1);
  machine->must({"systemd-sysusers"});  // which makes fewer without a word to its exit status
  for (const char* user : {"preforkd", "preforkd-control", "preforkd-log"})
    machine->must({"getent", "passwd", user});
  machine->must({"systemctl", "daemon-reload"});
  machine->must({"journalctl", "--update-catalog"});
  return machine;
}

Machine::~Machine() {
  try {
    sysd({"down"}, 30);
  } catch (const std::exception& e) {
    expect(false, std::string("end the systemd: ") + e.what());
  }
}

Outcome Machine::sysd(std::vector<std::string> arguments, double seconds) {
  const auto script = std::filesystem::path(__FILE__).parent_path() / "sysd";
  arguments.insert(arguments.begin(),
                   {"env", "SYSD_STATE=" + state_.file("sysd"),
                    shares_loopback_ ? "SYSD_NET=host" : "SYSD_NET=", "bash", script});
  return run(arguments, seconds);
}

// As `sysd exec` would, without a shell for each: tests ask hundreds of times.
Outcome Machine::exec(const std::vector<std::string>& command, double seconds) {
  std::vector<std::string> arguments{
      "nsenter",    "-t",
      leader_,      "-a",
      "--",         "env",
      "-i",         "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
      "HOME=/root", "LANG=C.UTF-8"};
  arguments.insert(arguments.end(), command.begin(), command.end());
  return run(arguments, seconds);
}

void Machine::kill_daemon() {
  must({"systemctl", "kill", "--kill-who=main", "-s", "KILL", "preforkd.service"});
}

void Machine::wait_for_restart(int nth) {
  wait_until("systemd has started it again", kPatience,
             [&] { return property("NRestarts") == std::to_string(nth) && is_active(); });
}

std::string Machine::must(const std::vector<std::string>& command) {
  Outcome outcome = exec(command);
  if (outcome.code != 0)
    throw Failure(command[0] + " " + command.back() + ": " + std::to_string(outcome.code) + ", " +
                  outcome.err + exec({"journalctl", "-n", "30", "--no-pager"}).out);
  return outcome.out;
}

std::string Machine::property(const std::string& name) {
  std::string text = must({"systemctl", "show", "--value", "-p", name, "preforkd.service"});
  return text.substr(0, text.find('\n'));
}

void Machine::expect_served(const std::string& what) {
  Outcome answer = exec({"sh", "-c", "printf 'hi\\n' | nc -N -w 20 127.0.0.1 7007"});
  expect_equal(what, answer.out, "hi\n");
}

void Machine::expect_nothing_left() {
  expect_equal("processes left", exec({"pgrep", "-l", "preforkd"}).out, "");
  expect_equal("runtime directory", exec({"test", "-e", "/run/preforkd"}).code, 1);
  expect_equal("shared memory", must({"ls", "-A", "/dev/shm"}), "");
}

void Machine::hold_a_client() {
  // cat waits until somebody opens the other end.
  must({"sh", "-c",
        "mkfifo /tmp/held; ((echo begin; cat /tmp/held; echo end) | "
        "nc -N 127.0.0.1 7007 >/tmp/held.out) >/dev/null 2>&1 </dev/null &"});
  wait_until("the client is served", kPatience, [&] { return held_client_heard() == "begin\n"; });
}

void Machine::let_it_go() { must({"sh", "-c", ": >/tmp/held"}); }

void Machine::add_to_service(const std::string& name, const std::string& text) {
  const std::string drop_in = "/run/systemd/system/preforkd.service.d/" + name + ".conf";
  must({"sh", "-c", "printf '[Service]\\n%s\\n' \"$0\" | install -D -m 644 /dev/stdin $1", text,
        drop_in});
  must({"systemctl", "daemon-reload"});
}

std::string echo_on_machine(const std::string& workers, const std::string& listen,
                            const std::string& more) {
  return "control = { web = \"\"; };\npools = ( { name = \"echo\"; listen = [ \"" + listen +
         "\" ]; handler = \"echo\";\n  workers = { " + workers + " }; " + more + " } );\n";
}

}  // namespace preforkd::system_test
