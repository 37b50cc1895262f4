#include "tests/sweep/scenario.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "base/error.h"
#include "tests/sweep/crowd.h"
#include "tests/sweep/errors.h"
#include "tests/sweep/tracer.h"
#include "tests/system/harness.h"

namespace preforkd::sweep {
namespace {

using namespace system_test;

const PoolText kEcho{
    .name = "echo",
    .workers = "min = 2; max = 8; min_spare = 1; max_spare = 1; shrink_after = 0.2;",
    .timeouts = "drain = 20.0;"};
const PoolText kCat{.name = "cat",
                    .listen = "\"unix:@DIR@/cat.sock\"",
                    .serves = "program = [ \"/bin/cat\" ];",
                    .workers = "min = 1; max = 6; min_spare = 1;",
                    .timeouts = "drain = 20.0;"};
const PoolText kOdd{.name = "odd",
                    .serves = unruly(),
                    .workers = "min = 1; max = 4; min_spare = 1;",
                    .timeouts = "drain = 20.0;"};
const PoolText kMore{.name = "more",
                     .listen = "\"unix:@DIR@/more.sock\"",
                     .workers = "min = 1; max = 2;",
                     .timeouts = "drain = 20.0;"};

class DaemonEnded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Scenario {
 public:
  Scenario(const std::vector<Fault>& faults, const std::vector<Site>& sites,
           const std::string& record_to, Verdict& verdict)
      : faults_(faults), sites_(sites), record_to_(record_to), verdict_(verdict) {}

  void run() {
    Tracer tracer(faults_, sites_, record_to_);
    tracer_ = &tracer;
    {
      Server server(config_of({kEcho, kCat, kOdd}),
                    {.wait_until_ready = false, .in_child = [&] { tracer.attach_to_me(); }});
      server_ = &server;
      first_pid_ = server.pid();
      try {
        go_through();
      } catch (const DaemonEnded& e) {
        go_on_after(e);
      } catch (const std::exception& e) {
        // It may have ended in a way that only its clients have noticed until now.
        const bool is_killed = daemon_killed_at() != kNever;  // though it may not be dead quite yet
        if (!is_killed && (server.has_exited() || is_running(server.pid()))) {
          complain(e.what());
        } else {
          go_on_after(DaemonEnded(e.what()));
        }
      }
      leave();
      if (server.has_exited()) look_for_what_is_left();
      look_for_messages();
      if (!verdict_.complaints.empty())
        std::fprintf(stderr, "--- its log ---\n%s---\n", server.log().c_str());
    }
    if (!record_to_.empty()) tracer.wait();
    for (size_t i = 0; i < faults_.size(); ++i)
      if (tracer.done().faults[i].pid != 0) verdict_.done.push_back(faults_[i]);
  }

 private:
  void complain(const std::string& text) { verdict_.complaints.push_back(text); }

  // --- the way of it ---

  void go_through() {
    wait("all pools serve", [&] { return all_serve(3); });
    const_cast<Done&>(tracer_->done()).is_ready = true;
    said("start");
    come();
    grow_and_shrink();
    said("grow and shrink");
    set_limits();
    look();
    said("set limits, look");
    change_pools();
    said("two reloads");
    ask("POST", "/v1/pools/cat/recycle");
    said("recycle");
    lose_processes();
    said("lose processes");
    drain_and_resume();
    said("drain and resume");
    upgrade();
    said("upgrade");
    stop();
    said("stop");
  }

  // What was done up to here, for who looks into the time that it takes.
  void said(const char* step) {
    std::fprintf(stderr, "%.3f s: %s\n", to_seconds(monotonic_now() - began_), step);
  }

  void come() {
    for (const char* pool : {"echo", "cat"}) {
      std::string address;
      wait(std::string("pool ") + pool + " has an address", [&] {
        address = server_->address(pool);
        return true;
      });
      crowds_.push_back(std::make_unique<Crowd>(address));
    }
  }

  void send_away() {
    for (auto& crowd : crowds_) crowd->ask_to_leave();
    for (auto& crowd : crowds_) crowd->leave();
  }

  void leave() {
    send_away();
    const Nanoseconds killed_at = daemon_killed_at();
    for (auto& crowd : crowds_) {
      // Who was served as the daemon was killed has a worker who goes on with it.
      for (const Loss& loss : crowd->losses()) {
        if (std::min(loss.when, loss.served_since) >= killed_at) continue;
        complain(loss.text + (killed_at == kNever
                                  ? ""
                                  : " " + std::to_string(to_seconds(loss.when - killed_at)) +
                                        " s after the kill"));
      }
      if (crowd->served() == 0 && killed_at == kNever) complain("nobody was served");
    }
    crowds_.clear();
  }

  void grow_and_shrink() {
    const std::string address = address_of("echo");
    {
      std::vector<Client> clients;
      for (int i = 0; i < 4; ++i) clients.emplace_back(address);
      for (Client& client : clients) expect(client.echoes("hi\n", kLongest), "an echo");
    }
    wait("pool echo shrinks", [&] { return server_->pool("echo")["workers"]["total"] <= 3; });
  }

  void set_limits() {
    ask("PATCH", "/v1/pools/echo/limits", R"({"min": 3, "max": 9})");
    wait("pool echo has its new limits",
         [&] { return server_->pool("echo")["limits"]["min"] == 3; });
  }

  void look() {
    for (const char* path : {"/v1/status", "/v1/pools/echo", "/v1/pools/cat/workers",
                             "/v1/pools/echo/decisions", "/metrics"})
      ask("GET", path);
  }

  void change_pools() {
    server_->write_config(config_of({kEcho, kCat, kOdd, kMore}));
    pools_ = 4;
    ask("POST", "/v1/reload");
    wait("the new pool serves", [&] { return all_serve(4); });
    greet("unix:" + server_->folder().file("more.sock"));
    server_->write_config(config_of({kEcho, kCat, kOdd}));
    pools_ = 3;
    ask("POST", "/v1/reload");
    wait("the new pool has gone", [&] { return server_->status()["pools"].size() == 3; });
  }

  void lose_processes() {
    const std::string address = address_of("odd");
    Client client(address);
    client.send("p");
    const pid_t worker = std::stoi(client.read_line(kLongest));
    ::kill(worker, SIGKILL);
    expect(client.is_ended(kLongest), "the killed worker's client hears of it");
    greet_odd(address);
    // In one go: the next processes start side by side.
    lose("preforkd: supervisor echo");
    lose("preforkd: control");
    lose("preforkd: log");
    wait("all pools serve again", [&] { return all_serve(3); });
    wait("there is a log process", [&] { return server_->find_process("preforkd: log") != 0; });
  }

  void lose(const std::string& title) {
    // Looked for once: when the daemon has ended meanwhile there is none, and 0 would be our own group.
    pid_t pid = 0;
    wait("there is " + title, [&] { return (pid = server_->find_process(title)) != 0; });
    ::kill(pid, SIGKILL);
  }

  void drain_and_resume() {
    ask("POST", "/v1/pools/odd/drain");
    wait("pool odd is drained", [&] { return server_->pool("odd")["state"] == "stopped"; });
    ask("POST", "/v1/pools/odd/resume");
    wait("pool odd serves", [&] { return all_serve(3); });
    greet_odd(address_of("odd"));
  }

  void upgrade() {
    const std::string before = server_->log();
    ask("POST", "/v1/upgrade");
    wait("all pools serve after the upgrade", [&] { return all_serve(3); });
  }

  void stop() {
    for (const char* pool : {"echo", "cat"})
      wait("pools serve", [&] {
        greet(address_of(pool));
        return true;
      });
    leave();
    server_->signal(SIGTERM);
    wait_for_exit(0);
  }

  void wait_for_exit(int code) {
    const int found = server_->wait_exit(kLongest);
    if (daemon_killed_at() != kNever) throw DaemonEnded("as it was stopped");
    expect_equal("exit code", found, code);
  }

  // --- a daemon that has ended ---

  void go_on_after(const DaemonEnded& end) {
    const int code = server_->has_exited() ? 128 + SIGKILL : server_->wait_exit(kLongest);
    const bool is_killed = daemon_killed_at() != kNever && code == 128 + SIGKILL;
    const bool has_failed = !tracer_->done().is_ready && (code == 71 || code == 78);
    if (!is_killed && !has_failed)
      complain("the daemon ended, exit code " + std::to_string(code) + ": " + end.what());
    send_away();
    try {
      system_test::wait_until("what it has left ends", kLongest,
                              [&] { return server_->left_behind().empty(); });
    } catch (const Failure& e) {
      std::string left;
      for (pid_t pid : server_->left_behind()) left += ", " + title_of(pid);
      complain(e.what() + left);
    }
    if (has_failed) look_for_what_is_left();
    // A daemon that was killed before it had taken the pool away leaves its file, which the next one does not know of.
    more_is_abandoned_ = pools_ == 3;
    try {
      server_->start_again();
      wait("all pools serve at the next start", [&] { return all_serve(pools_); });
      greet(address_of("echo"));
      greet(address_of("cat"));
      server_->signal(SIGTERM);
      expect_equal("exit code of the next one", server_->wait_exit(kLongest), 0);
    } catch (const std::exception& e) {
      complain(std::string("the next start: ") + e.what());
    }
  }

  // When a fault killed the daemon itself.
  Nanoseconds daemon_killed_at() const {
    for (size_t i = 0; i < faults_.size(); ++i) {
      const auto& done = tracer_->done().faults[i];
      if (faults_[i].kills() && done.pid == first_pid_) return done.when;
    }
    return kNever;
  }

  // --- what is waited for ---

  void wait(const std::string& event, const std::function<bool()>& has_come) {
    const pid_t pid = server_->pid();
    const auto expect_daemon = [&] {
      if (!server_->has_exited() && !is_running(pid)) throw DaemonEnded("before " + event);
    };
    system_test::wait_until(event, kLongest, [&] {
      expect_daemon();
      try {
        return has_come();
      } catch (const Failure&) {
        expect_daemon();
        throw;
      } catch (const Json::exception& e) {
        throw Failure(e.what());
      }
    });
  }

  bool all_serve(size_t pools) {
    const Json status = server_->status();
    if (status["pid"] != server_->pid() || status["pools"].size() != pools)
      throw Failure("it is not all there: " + status.dump());
    for (const Json& pool : status["pools"])
      if (pool["state"] != "running") throw Failure("it is not running: " + pool.dump());
    return true;
  }

  std::string address_of(const std::string& pool) {
    std::string address;
    wait("pool " + pool + " has an address", [&] {
      address = server_->address(pool);
      return true;
    });
    return address;
  }

  // What is refused is asked again, and must succeed then.
  void ask(const char* method, const std::string& path, const std::string& body = "") {
    wait(path + " is answered", [&] {
      const Answer answer = server_->request(method, path, body);
      if (answer.status == 200 || answer.status == 202 || answer.status == 204) return true;
      answers_ += answer.body + "\n";
      throw Failure("status " + std::to_string(answer.status) + ", " + answer.body);
    });
  }

  void greet(const std::string& address) {
    Client client(address);
    expect(client.echoes("hello\n", kLongest), "an echo at " + address);
  }
  void greet_odd(const std::string& address) {
    Client client(address);
    client.send("n");
    client.read_line(kLongest);
  }

  // --- what is looked for at the end ---

  void look_for_what_is_left() {
    std::error_code gone;
    for (const std::string name : {"cat.sock", "more.sock", "run/control.sock"})
      if (!(name == "more.sock" && more_is_abandoned_) && !removal_has_failed() &&
          std::filesystem::exists(server_->folder().file(name), gone))
        complain("left behind: " + name);
    for (const auto& file : std::filesystem::directory_iterator("/dev/shm", gone))
      if (file.path().filename().string().starts_with("preforkd"))
        complain("left behind: " + file.path().string());
  }

  // What may not be removed stays, and it is said why; what seems to be gone is not looked for.
  bool removal_has_failed() const {
    for (size_t i = 0; i < faults_.size(); ++i) {
      const Site& site = site_of(faults_[i]);
      if (tracer_->done().faults[i].pid != 0 &&
          (site.call.starts_with("unlink") ||
           (faults_[i].error == ENOENT &&
            site.stack.find("SocketPath::remove") != std::string::npos)))
        return true;
    }
    return false;
  }

  const Site& site_of(const Fault& fault) const {
    return *std::find_if(sites_.begin(), sites_.end(),
                         [&](const Site& site) { return site.id == fault.site; });
  }

  void look_for_messages() {
    const std::string text = server_->log() + answers_;
    for (size_t i = 0; i < faults_.size(); ++i) {
      const Fault& fault = faults_[i];
      if (fault.what != What::kError || tracer_->done().faults[i].pid == 0) continue;
      const Site& site = site_of(fault);
      if (quiet(site.call, fault.error, site.stack)) continue;
      if (text.find(std::strerror(fault.error)) == text.npos)
        complain("nobody said: " + fault.text() + " (" + site.call + " in " + site.stack + ")");
    }
  }

  const std::vector<Fault>& faults_;
  const std::vector<Site>& sites_;
  const std::string record_to_;
  Verdict& verdict_;
  Tracer* tracer_ = nullptr;
  Server* server_ = nullptr;
  pid_t first_pid_ = 0;
  size_t pools_ = 3;  // that the configuration has
  std::vector<std::unique_ptr<Crowd>> crowds_;
  bool more_is_abandoned_ = false;
  std::string answers_;
  const Nanoseconds began_ = monotonic_now();
};

std::function<void()> the_run;

}  // namespace

Verdict run_scenario(const std::vector<Fault>& faults, const std::vector<Site>& sites,
                     const std::string& record_to) {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
    throw SysError("become child subreaper", errno);
  signal(SIGPIPE, SIG_IGN);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  Verdict verdict;
  the_run = [&] {
    try {
      Scenario(faults, sites, record_to, verdict).run();
    } catch (const std::exception& e) {
      verdict.complaints.push_back(e.what());
    }
  };
  if (CU_initialize_registry() != CUE_SUCCESS) throw std::runtime_error(CU_get_error_msg());
  CU_add_test(CU_add_suite("sweep", nullptr, nullptr), "scenario", [] { the_run(); });
  CU_run_all_tests();
  for (CU_pFailureRecord record = CU_get_failure_list(); record; record = record->pNext)
    verdict.complaints.emplace_back(record->strCondition ? record->strCondition : "?");
  CU_cleanup_registry();
  return verdict;
}

}  // namespace preforkd::sweep
