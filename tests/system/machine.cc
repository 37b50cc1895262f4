#include "tests/system/machine.h"

#include "tests/system/conditions.h"

namespace preforkd::system_test {
namespace {
constexpr int kCannotHere = 77;  // sysd's exit code
}

std::unique_ptr<Machine> Machine::boot(bool shares_loopback) {
  std::unique_ptr<Machine> machine(new Machine);
  machine->shares_loopback_ = shares_loopback;
  const std::string root = machine->installed_.path();
  // What is built is installed as it is, whatever make has to say of the sources (-o all).
  const std::string folder = std::filesystem::path(built("preforkd")).parent_path();
  Outcome made = run({"env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "-s", "-o", "all",
                      "install", "OUT=" + folder, "DESTDIR=" + root},
                     60);
  if (made.code != 0) throw Failure("make install: " + made.err);
  Outcome up = machine->sysd(
      {"up", root + "/usr/local:/usr/local", root + "/etc/preforkd:/etc/preforkd"}, 60);
  if (up.code == kCannotHere) return skip(up.err), nullptr;
  if (up.code != 0) throw Failure("boot a systemd: " + up.err);
  machine->must({"systemd-sysusers"});
  if (kSanitized)  // the unit's filter refuses ptrace, without which leaks cannot be looked for
    machine->must({"sh", "-c",
                   "d=/run/systemd/system/preforkd.service.d; mkdir -p $d && printf "
                   "'[Service]\nEnvironment=ASAN_OPTIONS=detect_leaks=0\n' >$d/leaks.conf"});
  machine->must({"systemctl", "daemon-reload"});
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

Outcome Machine::exec(const std::vector<std::string>& command, double seconds) {
  std::vector<std::string> arguments{"exec"};
  arguments.insert(arguments.end(), command.begin(), command.end());
  return sysd(arguments, seconds);
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

}  // namespace preforkd::system_test
