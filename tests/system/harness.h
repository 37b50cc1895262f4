// A preforkd under test: the real programs, in a folder of their own, with a real configuration.
#pragma once

#include <sys/types.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "tests/system/check.h"
#include "tests/system/client.h"
#include "tests/system/process.h"

namespace preforkd::system_test {

using Json = nlohmann::json;

// A folder that everybody may enter (pools run as other users), gone with the object. In /dev/shm, files
// by the thousand cost next to nothing.
class TestFolder {
 public:
  explicit TestFolder(const std::string& parent = "/tmp");
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // Creates or replaces; returns its path.
  std::string write(const std::string& name, const std::string& text, mode_t mode = 0644) const;
  // "@DIR@" is this folder, "@HANDLERS@" that of the handlers made for tests.
  std::string expand(std::string text) const;

 private:
  std::string path_;
};

// One pool as configuration text; what is left empty has its default.
struct PoolText {
  std::string name = "echo";
  std::string listen = "\"127.0.0.1:0\"";      // what stands between the brackets
  std::string serves = "handler = \"echo\";";  // or program = ...; with settings, if any
  std::string workers = "";                    // "min = 1; max = 2;"
  std::string timeouts = "";
  std::string more = "";  // any other key of the pool
};
std::string config_of(const std::vector<PoolText>& pools);

// PoolText::serves for the handler `unruly` (tests/system/handlers/unruly.cc).
std::string unruly(const std::string& settings = "");

// What unruly answers when asked for its pid.
pid_t pid_serving(Client& client);

struct Answer {
  long status = 0;  // HTTP; 0: nobody answered
  std::string body;
  Json json() const;  // throws Failure if it is none
};

struct ServerOptions {
  bool wait_until_ready = true;
  std::vector<std::string> arguments = {};  // besides -c and --runtime-dir
  std::function<void()> in_child = {};      // see Spawn
  std::vector<int> inherited = {};          // listen sockets to pass on as systemd does; borrowed
  std::string inherited_names = "";         // LISTEN_FDNAMES
  std::string program = "";                 // the daemon's; "": the one that was built
  std::vector<std::string> under = {};      // what runs it: a command and its options
};

class Server {
 public:
  // `config` is expanded (TestFolder::expand) and written to @DIR@/preforkd.conf.
  explicit Server(const std::string& config, ServerOptions options = {});
  explicit Server(const std::vector<PoolText>& pools, ServerOptions options = {})
      : Server(config_of(pools), std::move(options)) {}
  // TERM and, after a while, KILL; then nothing of it may be left. Shows the log if the test failed.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // --- the control socket ---
  Answer request(const std::string& method, const std::string& path, const std::string& body = "");
  Json status();
  Json pool(const std::string& name = "echo");
  Json workers(const std::string& name = "echo");
  Json decisions(const std::string& name = "echo");
  Outcome ctl(const std::vector<std::string>& arguments, double seconds = 40);

  // --- what it listens on ---
  std::string address(const std::string& pool = "echo", size_t index = 0);  // for Client
  int port(const std::string& pool = "echo", size_t index = 0);

  // --- the processes ---
  pid_t pid() const { return pid_; }
  pid_t supervisor(const std::string& pool = "echo");  // by its title
  pid_t control();
  pid_t log_writer();
  std::vector<pid_t> all_pids();  // the daemon and its descendants
  // Of those, one whose title begins so; the first: 0 if there is none.
  pid_t find_process(const std::string& title);
  pid_t wait_for_process(const std::string& title);
  std::vector<pid_t> worker_pids(const std::string& pool = "echo");  // from /proc, not from status
  void signal(int number);
  int wait_exit(double seconds = 40);  // the exit code, as in Outcome; the daemon is reaped
  void start_again();  // after wait_exit, in the same folder; throws Failure if it does not come up
  void forgive_reports() { reports_are_forgiven_ = true; }  // of sanitizers, in its log
  bool has_exited() const { return reaped_; }
  std::vector<pid_t> left_behind();  // running children of ours that came with it

  // --- the folder ---
  const TestFolder& folder() const { return folder_; }
  void write_config(const std::string& config);
  std::string log() const { return file_text(folder_.file("log")); }
  std::string socket() const { return folder_.file("run/control.sock"); }

  // As the function of this name; fails at once if the daemon ended though nobody waited for that.
  void wait_until(const std::string& event, double seconds, const std::function<bool()>& has_come,
                  std::source_location where = std::source_location::current());
  void wait_until_ready(double seconds = kPatience);
  // What a supervisor says takes a moment longer to the log than to the figures.
  void wait_for_log(const std::string& text);
  // The processes of those before have left, and their figures are read.
  void wait_for_one_generation(const std::string& pool = "echo");
  // Until the pool's status has this value there ("/workers/busy").
  void wait_for(const std::string& where_in_status, const Json& value,
                const std::string& pool = "echo", double seconds = kPatience,
                std::source_location where = std::source_location::current());

 private:
  void start(const ServerOptions& options);
  pid_t titled(const std::string& title);
  void end_all();
  void expect_no_sanitizer_reports();
  void show_log_of_failure();

  TestFolder folder_;
  std::vector<pid_t> others_;  // children that we had before it
  pid_t pid_ = -1;
  bool reaped_ = false;
  bool died_by_signal_ = false;
  bool reports_are_forgiven_ = false;
  unsigned failures_before_;
  int exceptions_before_;
};

}  // namespace preforkd::system_test
