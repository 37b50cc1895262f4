#include "tests/system/waits.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {

// --- what stands still ---------------------------------------------------------------------------

namespace {

void seize(pid_t pid, unsigned long options) {
  if (ptrace(PTRACE_SEIZE, pid, nullptr, options) < 0)
    throw SysError("hold process " + std::to_string(pid), errno);
}

void wait_for_trap(pid_t pid) {
  int status = 0;
  wait_until("process " + std::to_string(pid) + " is held", kPatience,
             [&] { return waitpid(pid, &status, WNOHANG | __WALL) == pid && WIFSTOPPED(status); });
}

}  // namespace

Held::Held(pid_t pid) : pid_(pid) {
  seize(pid, 0);
  if (ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) < 0) throw SysError("interrupt", errno);
  wait_for_trap(pid);
}

std::pair<Held, Held> Held::in_fork(pid_t parent, const std::function<void()>& cause) {
  seize(parent, PTRACE_O_TRACEFORK);
  Held in_parent, in_child;
  in_parent.pid_ = parent;
  cause();
  wait_for_trap(parent);
  unsigned long child = 0;
  ptrace(PTRACE_GETEVENTMSG, parent, nullptr, &child);
  in_child.pid_ = static_cast<pid_t>(child);
  wait_for_trap(in_child.pid_);
  return {std::move(in_parent), std::move(in_child)};
}

Held Held::next_child(pid_t parent, const std::function<void()>& cause) {
  return in_fork(parent, cause).second;
}

Held::Held(Held&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}

Held::~Held() {
  if (pid_) ptrace(PTRACE_DETACH, pid_, nullptr, nullptr);
}

void Held::go_on_until(const std::string& what, const std::function<bool()>& is_so) {
  long signal = 0;
  wait_until(what, kPatience, [&] {
    if (is_so()) return true;
    int status = 0;
    if (ptrace(PTRACE_SYSCALL, pid_, nullptr, signal) < 0) throw SysError("go on", errno);
    if (waitpid(pid_, &status, __WALL) != pid_ || !WIFSTOPPED(status))
      throw Failure("process " + std::to_string(pid_) + " has ended");
    signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
    return false;
  });
}

bool Held::is_gone() {
  int status = 0;
  if (pid_ && waitpid(pid_, &status, WNOHANG | __WALL) == pid_ && WIFSIGNALED(status)) pid_ = 0;
  return pid_ == 0;
}

PoolText maddening() {
  return {.name = "bad",
          .serves = attacking_handler("mad_while = \"@DIR@/mad\";"),
          .workers = "min = 1; max = 4;",
          .timeouts = "start = 2.0; drain = 1.0;"};
}

pid_t go_mad(Server& server) {
  const pid_t supervisor = supervisor_of(server, "bad");
  server.folder().write("mad." + std::to_string(supervisor), "");
  server.wait_until("the supervisor is mad", kPatience, [&] {
    return doing(supervisor).find("hrtimer_nanosleep") != std::string::npos;
  });
  return supervisor;
}

PoolText stubborn() {
  return {.name = "bad",
          .serves = unruly(),
          .workers = "min = 1; max = 4;",
          .timeouts = "start = 2.0; drain = 1.0;"};
}

ServedForEver::ServedForEver(Server& server)
    : client(server.address("bad")), worker(pid_serving(client)) {
  client.send("t");
}

// --- what must go on -----------------------------------------------------------------------------

namespace {

constexpr double kHeldUp = 1;  // seconds

std::vector<PoolText> with_other(std::vector<PoolText> pools) {
  pools.push_back({.name = "other", .workers = "min = 1; max = 4;"});
  return pools;
}

}  // namespace

Watched::Watched(std::vector<PoolText> pools, ServerOptions options)
    : server(with_other(std::move(pools)), std::move(options)) {
  server.wait_for("/state", "running", "other");
  other_ = server.address("other");
}

void Watched::order() {
  if (!uses_signals_) {
    const std::string min = "min=" + std::to_string(1 + took_.size() % 2);
    const Outcome set = server.ctl({"set", "other", min});
    if (set.code != 0) throw SysError("preforkctl set other " + min + ": " + set.err, EPROTO);
    return;
  }
  const size_t before = occurrences(server.log(), "preforkd: reloaded ");
  server.signal(SIGHUP);
  server.wait_until("a HUP is obeyed", kPatience,
                    [&] { return occurrences(server.log(), "preforkd: reloaded ") > before; });
}

void Watched::look() {
  expect(Client(other_).echoes("hello\n"), "another pool serves");
  if (on_its_own_) return;
  const Nanoseconds began = monotonic_now();
  order();
  took_.push_back(to_seconds(monotonic_now() - began));
}

void Watched::expect_never_held_up(std::source_location where) {
  if (took_.empty()) return;
  std::sort(took_.begin(), took_.end());
  expect(took_.back() < kHeldUp * slowness(),
         std::to_string(took_.size()) + " orders: half within " +
             std::to_string(took_[took_.size() / 2]) + " s, the worst after " +
             std::to_string(took_.back()) + " s",
         where);
}

void Watched::until(const std::string& event, double seconds, const std::function<bool()>& has_come,
                    std::source_location where) {
  took_.clear();
  const timespec pause = to_timespec(100 * kMillisecond);
  for (int i = 0; i < 3; ++i) look();
  server.wait_until(
      event, seconds,
      [&] {
        if (has_come()) return true;
        look();
        nanosleep(&pause, nullptr);
        return has_come();
      },
      where);
  expect_never_held_up(where);
}

void Watched::until_log_has(const std::string& text, double seconds, std::source_location where) {
  until(
      "the log has \"" + text + "\"", seconds,
      [&] { return server.log().find(text) != std::string::npos; }, where);
}

// --- side by side --------------------------------------------------------------------------------

namespace {

constexpr size_t kAtOnce = 6;
constexpr double kLongest = 60;  // seconds

struct Begun {
  pid_t pid = 0;
  std::string output;  // a path
};

// In the child. What does not hold is said, and counts in its exit status.
[[noreturn]] void run_alone(void (*test)(), const std::string& output) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  const UniqueFd file(open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  dup2(file.get(), 1);
  dup2(file.get(), 2);
  const unsigned before = CU_get_number_of_failures();
  std::string thrown;
  try {
    test();
  } catch (const Failure& e) {
    thrown = std::string(e.where().file_name()) + ":" + std::to_string(e.where().line()) + ": " +
             e.what() + "\n";
  } catch (const std::exception& e) {
    thrown = std::string(e.what()) + "\n";
  }
  unsigned number = 0;
  for (auto* f = CU_get_failure_list(); f; f = f->pNext)
    if (number++ >= before)
      std::printf("%s:%u: %s\n", f->strFileName, f->uiLineNumber, f->strCondition);
  std::printf("%s", thrown.c_str());
  std::fflush(stdout);
  _exit(thrown.empty() && CU_get_number_of_failures() == before ? 0 : 1);
}

}  // namespace

void run_side_by_side(const std::vector<Test>& tests) {
  static TestFolder folder;
  static std::map<std::string, Begun> begun;
  auto begin = [&](const std::string& name) {
    auto is_it = [&](const Test& test) { return name == test.name; };
    const auto test = std::find_if(tests.begin(), tests.end(), is_it);
    if (begun.contains(name) || test == tests.end()) return;
    Begun one{0, folder.file(std::to_string(begun.size()))};
    std::fflush(stdout);
    if ((one.pid = fork()) == 0) run_alone(test->run, one.output);
    if (one.pid < 0) throw SysError("fork", errno);
    begun[name] = one;
  };
  // Those that CUnit was told to run: they may be one only.
  size_t ahead = 0;
  for (CU_pTest next = CU_get_current_test(); next && ahead < kAtOnce; next = next->pNext, ++ahead)
    begin(next->pName);
  const Begun one = begun.at(CU_get_current_test()->pName);
  const int code = exit_code(wait_for_child(one.pid, kLongest));
  const std::string said = file_text(one.output);
  expect(code == 0, said);
}

}  // namespace preforkd::system_test
