#include "tests/system/harness.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/error.h"

namespace preforkd::system_test {
namespace {

// The command line, which preforkd's processes use as their title.
std::vector<pid_t> descendants_of(pid_t pid) {
  std::vector<pid_t> all = children_of(pid);
  for (size_t i = 0; i < all.size(); ++i)
    for (pid_t child : children_of(all[i])) all.push_back(child);
  return all;
}

// The last lines: a server that failed again and again has said enough there.
std::string end_of(const std::string& log) {
  constexpr size_t kMost = 10'000;
  if (log.size() <= kMost) return log;
  return "...\n" + log.substr(log.find('\n', log.size() - kMost) + 1);
}

size_t append_to(char* data, size_t, size_t size, void* text) {
  static_cast<std::string*>(text)->append(data, size);
  return size;
}

}  // namespace

// --- the folder ----------------------------------------------------------------------------------

TestFolder::TestFolder(const std::string& parent) : path_(parent + "/test-preforkd-XXXXXX") {
  if (!mkdtemp(path_.data())) throw SysError("make a folder in " + parent, errno);
  chmod(path_.c_str(), 0755);
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TestFolder::write(const std::string& name, const std::string& text, mode_t mode) const {
  // Beside and renamed: a reader sees the old file or the new one.
  std::string path = file(name), beside = path + ".new";
  std::ofstream(beside, std::ios::trunc) << text;
  chmod(beside.c_str(), mode);
  if (rename(beside.c_str(), path.c_str()) < 0) throw SysError("write " + path, errno);
  return path;
}

std::string TestFolder::expand(std::string text) const {
  const std::pair<std::string, std::string> kNames[] = {
      {"@DIR@", path_}, {"@HANDLERS@", std::filesystem::absolute(built("tests/system/handlers"))}};
  for (const auto& [name, value] : kNames)
    for (size_t at; (at = text.find(name)) != text.npos;) text.replace(at, name.size(), value);
  return text;
}

// --- configuration -------------------------------------------------------------------------------

std::string config_of(const std::vector<PoolText>& pools) {
  std::string text = "control = { web = \"\"; };\npools = (\n";
  for (const PoolText& pool : pools) {
    if (&pool != &pools.front()) text += ",\n";
    text += "  { name = \"" + pool.name + "\"; listen = [ " + pool.listen + " ]; " + pool.serves;
    if (!pool.workers.empty()) text += "\n    workers = { " + pool.workers + " };";
    if (!pool.timeouts.empty()) text += "\n    timeouts = { " + pool.timeouts + " };";
    text += " " + pool.more + " }";
  }
  return text + "\n);\n";
}

std::string unruly(const std::string& settings) {
  return "handler = \"@HANDLERS@/unruly.so\"; settings = { " + settings + " };";
}

pid_t pid_serving(Client& client) {
  client.send("p");
  return std::stoi(client.read_line());
}

Json Answer::json() const {
  Json json = Json::parse(body, nullptr, false);
  if (json.is_discarded())
    throw Failure("not JSON: status " + std::to_string(status) + ", " + body);
  return json;
}

// --- the server's life ---------------------------------------------------------------------------

Server::Server(const std::string& config, ServerOptions options)
    : others_(own_children()),
      failures_before_(CU_get_number_of_failures()),
      exceptions_before_(std::uncaught_exceptions()) {
  write_config(config);
  start(options);
  if (!options.wait_until_ready) return;
  try {
    wait_until_ready();
  } catch (...) {
    // The destructor of an object that was never whole does not run.
    std::fprintf(stderr, "\n--- log of the server that did not come up ---\n%s---\n",
                 log().c_str());
    end_all();
    throw;
  }
}

Server::~Server() {
  try {
    end_all();
  } catch (const std::exception& e) {
    expect(false, std::string("stop the server: ") + e.what());
  }
  expect_no_sanitizer_reports();
  show_log_of_failure();
}

void Server::write_config(const std::string& config) {
  folder_.write("preforkd.conf", folder_.expand(config));
}

void Server::start(const ServerOptions& options) {
  UniqueFd log_file(
      open(folder_.file("log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log_file.is_open()) throw SysError("open " + folder_.file("log"), errno);
  std::vector<std::string> argv = options.under;
  argv.insert(argv.end(), {options.program.empty() ? built("preforkd") : options.program, "-c",
                           folder_.file("preforkd.conf"), "--runtime-dir", folder_.file("run")});
  argv.insert(argv.end(), options.arguments.begin(), options.arguments.end());
  pid_ = spawn({.argv = argv, .out = log_file.get(), .err = log_file.get(), .in_child = [&] {
                  // As sd_listen_fds(3) wants them: from 3 on. First out of each other's way.
                  std::vector<UniqueFd> high;
                  for (int fd : options.inherited)
                    high.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 100));
                  for (size_t i = 0; i < high.size(); ++i)
                    dup2(high[i].get(), 3 + static_cast<int>(i));
                  if (!options.inherited.empty()) {
                    setenv("LISTEN_FDS", std::to_string(options.inherited.size()).c_str(), 1);
                    setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
                    setenv("LISTEN_FDNAMES", options.inherited_names.c_str(), 1);
                  }
                  if (options.in_child) options.in_child();
                }});
}

void Server::wait_until_ready(double seconds) {
  wait_until("the server is ready", seconds, [this] {
    Json all = status(), pools = all["pools"];
    if (all["pid"] != pid_) throw Failure("another one, about to end, answers");
    return !pools.empty() && std::none_of(pools.begin(), pools.end(), [](const Json& pool) {
      return pool["state"] == "starting";
    });
  });
}

void Server::wait_until(const std::string& event, double seconds,
                        const std::function<bool()>& has_come, std::source_location where) {
  system_test::wait_until(
      event, seconds,
      [&] {
        if (!reaped_ && !is_running(pid_))
          throw SysError("the daemon ended before " + event,
                         ECHILD);  // no Failure: no use in waiting
        return has_come();
      },
      where);
}

void Server::wait_for(const std::string& where_in_status, const Json& value,
                      const std::string& name, double seconds, std::source_location where) {
  wait_until(
      "pool " + name + " has " + where_in_status + " " + value.dump(), seconds,
      [&] {
        Json found = pool(name).at(Json::json_pointer(where_in_status));
        if (found != value) throw Failure("it has " + found.dump());
        return true;
      },
      where);
}

void Server::signal(int number) {
  if (reaped_) throw Failure("signal the server: it has ended");
  kill(pid_, number);  // not reaped, so the pid is still its own
}

int Server::wait_exit(double seconds) {
  int status = wait_for_child(pid_, seconds);
  reaped_ = true;
  died_by_signal_ |= WIFSIGNALED(status);
  return exit_code(status);
}

void Server::start_again() {
  reaped_ = false;
  start({});
  try {
    wait_until_ready();
  } catch (const SysError&) {
    throw Failure("it ended again, exit code " + std::to_string(wait_exit()));
  }
}

void Server::wait_for_log(const std::string& text) {
  system_test::wait_until("the log has \"" + text + "\"", kPatience,
                          [&] { return log().find(text) != std::string::npos; });
}

void Server::wait_for_one_generation(const std::string& pool) {
  wait_until("pool " + pool + " has one generation", kPatience,
             [&] { return this->pool(pool)["generations"].size() == 1; });
}

std::vector<pid_t> Server::left_behind() {
  std::vector<pid_t> left;
  for (pid_t pid : own_children()) {
    if (pid == pid_ || std::find(others_.begin(), others_.end(), pid) != others_.end()) continue;
    if (waitpid(pid, nullptr, WNOHANG) == 0) left.push_back(pid);
  }
  return left;
}

void Server::end_all() {
  if (!reaped_) {
    // A supervisor or control that a test stopped must hear of it too.
    for (pid_t pid : descendants_of(pid_)) let_go_on(pid);
    let_go_on(pid_);
    kill(pid_, SIGTERM);
    try {
      wait_exit(10);
    } catch (const Failure& e) {
      std::string there;
      for (pid_t pid : descendants_of(pid_)) there += "\n  " + doing(pid);
      expect(false, "stopped by TERM within 10 s; still there:" + there);
      kill(pid_, SIGKILL);
      wait_exit();
    }
  }
  // A daemon that was killed could not see to it: its supervisors do, in their own time.
  if (died_by_signal_) {
    try {
      system_test::wait_until("orphans have ended", 10, [this] { return left_behind().empty(); });
    } catch (const Failure&) {
    }
  }
  for (std::vector<pid_t> left; !(left = left_behind()).empty();) {
    for (pid_t pid : left) {
      // In the midst of its exit; or a copy of the daemon that closes a socket in its place (daemon/close_apart.h).
      if (const std::string title = title_of(pid); title.empty() || title == "preforkd: daemon") {
        wait_for_child(pid, 10);
        continue;
      }
      expect(false, "left behind: " + std::to_string(pid) + " " + title_of(pid));
      kill(pid, SIGKILL);
      wait_for_child(pid, 10);
    }
  }
}

// Of whichever process of it: not each one's exit status is somebody's concern.
void Server::expect_no_sanitizer_reports() {
  if (reports_are_forgiven_) return;
  const std::string text = log();
  for (const char* report : {"ERROR: AddressSanitizer", "LeakSanitizer", "runtime error:"})
    expect(text.find(report) == text.npos, std::string("the log has: ") + report);
}

void Server::show_log_of_failure() {
  if (CU_get_number_of_failures() == failures_before_ &&
      std::uncaught_exceptions() == exceptions_before_)
    return;
  std::fprintf(stderr, "\n--- log of the server of this failed test ---\n%s---\n",
               end_of(log()).c_str());
}

// --- what it says --------------------------------------------------------------------------------

Answer Server::request(const std::string& method, const std::string& path,
                       const std::string& body) {
  std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(
      curl_slist_append(nullptr, "Content-Type: application/json"), curl_slist_free_all);
  Answer answer;
  std::string url = "http://preforkd" + path;
  curl_easy_setopt(curl.get(), CURLOPT_UNIX_SOCKET_PATH, socket().c_str());
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_CUSTOMREQUEST, method.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, 30'000L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, append_to);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &answer.body);
  if (!body.empty()) {
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
  }
  if (curl_easy_perform(curl.get()) == CURLE_OK)
    curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &answer.status);
  return answer;
}

namespace {
Json asked(Server& server, const std::string& path) {
  Answer answer = server.request("GET", path);
  if (answer.status != 200)
    throw Failure("GET " + path + ": status " + std::to_string(answer.status) + ", " + answer.body);
  return answer.json();
}
}  // namespace

Json Server::status() { return asked(*this, "/v1/status"); }
Json Server::pool(const std::string& name) { return asked(*this, "/v1/pools/" + name); }
Json Server::workers(const std::string& name) {
  return asked(*this, "/v1/pools/" + name + "/workers");
}
Json Server::decisions(const std::string& name) {
  return asked(*this, "/v1/pools/" + name + "/decisions");
}

Outcome Server::ctl(const std::vector<std::string>& arguments, double seconds) {
  std::vector<std::string> argv{built("preforkctl"), "--socket", socket()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return run(argv, seconds);
}

std::string Server::address(const std::string& name, size_t index) {
  return pool(name)["listen"].at(index);
}

int Server::port(const std::string& name, size_t index) {
  std::string text = address(name, index);
  return std::atoi(text.c_str() + text.rfind(':') + 1);
}

// --- its processes -------------------------------------------------------------------------------

pid_t Server::titled(const std::string& title) {
  for (pid_t pid : children_of(pid_))
    if (title_of(pid) == title) return pid;
  throw Failure("no process is called \"" + title + "\"");
}

pid_t Server::supervisor(const std::string& pool) { return titled("preforkd: supervisor " + pool); }
pid_t Server::control() { return titled("preforkd: control"); }
// (Its exec is not waited for by anybody.)
pid_t Server::log_writer() { return wait_for_process("preforkd: log"); }

pid_t Server::find_process(const std::string& title) {
  for (pid_t pid : all_pids())
    if (title_of(pid).starts_with(title)) return pid;
  return 0;
}

pid_t Server::wait_for_process(const std::string& title) {
  pid_t pid = 0;
  wait_until("there is " + title, kPatience, [&] { return (pid = find_process(title)) != 0; });
  return pid;
}

std::vector<pid_t> Server::all_pids() {
  std::vector<pid_t> all = descendants_of(pid_);
  all.push_back(pid_);
  return all;
}

std::vector<pid_t> Server::worker_pids(const std::string& pool) {
  std::vector<pid_t> workers;
  for (pid_t pid : descendants_of(reaped_ ? getpid() : pid_))
    if (title_of(pid) == "preforkd: worker " + pool) workers.push_back(pid);
  return workers;
}

}  // namespace preforkd::system_test
