// preforkd as installed, under the real systemd (tests/system/sysd): what its suites share.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/system/harness.h"

namespace preforkd::system_test {

// A booted systemd, with what `make install` made. One for each test; it takes about a second.
class Machine {
 public:
  // Nothing, with the reason printed, where this machine cannot do it.
  // `shares_loopback`: 127.0.0.1 is the one out here.
  static std::unique_ptr<Machine> boot(bool shares_loopback = false);
  ~Machine();

  void configure(const std::string& config) {
    installed_.write("etc/preforkd/preforkd.conf", config);
  }
  // An empty file in its /etc/preforkd, which is read-only in there; the path out here.
  std::string add_file(const std::string& name) {
    return installed_.write("etc/preforkd/" + name, "");
  }
  void add_handler(const std::string& name) {  // one of those made for tests
    std::filesystem::copy(built("tests/system/handlers/" + name + ".so"),
                          installed_.file("usr/local/lib/preforkd/handlers"));
  }
  void add_program(const std::string& name) {  // the same, beside the handlers
    std::filesystem::copy(built("tests/system/programs/" + name),
                          installed_.file("usr/local/lib/preforkd/handlers"));
  }
  Outcome exec(const std::vector<std::string>& command, double seconds = 60);
  // Standard output of what must work.
  std::string must(const std::vector<std::string>& command);
  std::string property(const std::string& name);  // of preforkd.service
  bool is_active() { return property("ActiveState") == "active"; }
  void kill_daemon();  // with SIGKILL, and it alone
  void wait_for_restart(int nth = 1);
  Json pool() { return Json::parse(must({"preforkctl", "--json", "status"}))["pools"].at(0); }
  void expect_served(const std::string& what);
  void expect_nothing_left();
  // A client who says "begin", and "end" when it is let go; what it is answered goes to /tmp/held.out. Returns
  // when it is being served.
  void hold_a_client();
  void let_it_go();
  std::string held_client_heard() { return exec({"cat", "/tmp/held.out"}).out; }
  // What is added to preforkd.service, as a drop-in of this name.
  void add_to_service(const std::string& name, const std::string& text);

 private:
  Machine() = default;
  Outcome sysd(std::vector<std::string> arguments, double seconds);

  bool shares_loopback_ = false;
  TestFolder installed_, state_;
  std::string leader_;  // the pid, out here, of its systemd
};

// An echo pool, as a configuration.
std::string echo_on_machine(const std::string& workers,
                            const std::string& listen = "127.0.0.1:7007",
                            const std::string& more = "");

}  // namespace preforkd::system_test
