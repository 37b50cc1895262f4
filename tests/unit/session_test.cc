// daemon/session: the children that a dead supervisor left to us, told from all others.
#include "daemon/session.h"

#include <algorithm>
#include <array>

#include "shm/layout.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using shm::Word;
using unit::Child;

namespace {

constexpr size_t kWorkers = 4;

bool contains(const std::vector<pid_t>& pids, pid_t pid) {
  return std::find(pids.begin(), pids.end(), pid) != pids.end();
}

bool sleep_for_ever() {
  for (;;) pause();
}

void our_children() {
  Child a(sleep_for_ever), b(sleep_for_ever);
  const pid_t ended = [] {
    Child c([] { return true; });
    c.ended();
    return c.pid();
  }();
  auto children = own_children().value();
  CU_ASSERT(contains(children, a.pid()) && contains(children, b.pid()));
  CU_ASSERT_FALSE(contains(children, ended) || contains(children, getpid()));
  CU_ASSERT_FALSE(contains(children, getppid()));
}

void an_unreaped_child_is_one() {
  pid_t pid = fork();
  if (pid == 0) _exit(0);
  siginfo_t info{};
  CU_ASSERT_EQUAL(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  CU_ASSERT_TRUE(contains(own_children().value(), pid));
  CU_ASSERT_EQUAL(waitpid(pid, nullptr, 0), pid);
  CU_ASSERT_FALSE(contains(own_children().value(), pid));
}

struct Pool {
  Word ready;
  std::array<Word, kWorkers> workers;
};

// A supervisor leads a session, forks its workers, and is killed.
pid_t leave_workers_behind(Pool& pool) {
  pid_t supervisor = fork();
  if (supervisor == 0) {
    setsid();
    for (Word& worker : pool.workers) {
      pid_t pid = fork();
      if (pid == 0) sleep_for_ever();
      worker.store(static_cast<uint32_t>(pid));
    }
    pool.ready.store(1);
    sleep_for_ever();
  }
  if (!unit::eventually([&] { return pool.ready.load() == 1; })) _exit(2);
  kill(supervisor, SIGKILL);
  waitpid(supervisor, nullptr, 0);
  return supervisor;
}

// Runs in a process of its own, which adopts; as the daemon does.
bool adopts_and_ends() {
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  unit::Shared<Pool> first, second;
  Child stranger(sleep_for_ever);
  const pid_t first_session = leave_workers_behind(*first);
  const pid_t second_session = leave_workers_behind(*second);

  auto left = children_in_session(first_session);
  bool right =
      left && left->size() == kWorkers && children_in_session(second_session)->size() == kWorkers;
  for (const Word& worker : first->workers)
    right &= contains(*left, static_cast<pid_t>(worker.load()));
  right &= children_in_session(getsid(0)) == std::vector<pid_t>{stranger.pid()};

  signal_session(first_session, SIGTERM);
  for (const Word& worker : first->workers) {
    int status = 0;
    right &= waitpid(static_cast<pid_t>(worker.load()), &status, 0) > 0 && WIFSIGNALED(status) &&
             WTERMSIG(status) == SIGTERM;
  }
  right &= children_in_session(first_session)->empty();
  right &= children_in_session(second_session)->size() == kWorkers;  // nobody else was meant
  right &= waitpid(stranger.pid(), nullptr, WNOHANG) == 0;
  signal_session(second_session, SIGKILL);
  for (const Word& worker : second->workers)
    right &= waitpid(static_cast<pid_t>(worker.load()), nullptr, 0) > 0;
  return right;
}

void a_dead_supervisors_workers() {
  Child daemon(adopts_and_ends);
  CU_ASSERT_TRUE(daemon.succeeded());
}

void no_such_session() {
  Child other(sleep_for_ever);
  CU_ASSERT_TRUE(children_in_session(other.pid())->empty());  // a child, but no leader
  signal_session(other.pid(), SIGKILL);
  CU_ASSERT_EQUAL(waitpid(other.pid(), nullptr, WNOHANG), 0);
}

// --- hostile names -------------------------------------------------------------------------------

std::string status_with_name(const std::string& name) {
  return "Name:\t" + name +
         "\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t9\nPPid:\t1234\nTracerPid:\t77\n"
         "Uid:\t5\t6\t7\t8\nGid:\t60\t60\t60\t60\n";
}

constexpr const char* kNames[] = {"x",           "",
                                  "x\ny",        "x) S 77\n",
                                  "Uid: 1 1 1",  "\nUid:\t1\t1\t1",
                                  "\nPPid:\t77", "a\nUid:\nPPid:",
                                  "PPid: 77",    "()\\n \t"};

void a_name_says_nothing() {
  for (const char* name : kNames) {
    const auto status = parse_process_status(status_with_name(name));
    CU_ASSERT_TRUE(status.has_value());
    if (!status) continue;
    CU_ASSERT_EQUAL(status->parent, 1234);
    CU_ASSERT_TRUE((status->uids == std::array<uid_t, 3>{5, 6, 7}));
  }
}

void no_status() {
  for (const char* text : {"", "\n", "PPid:\t1\n", "Uid:\t1\t1\t1\t1\n", "PPid:\t1\nUid:\t1\t2\n",
                           "PPid:\nUid:\t1\t1\t1\n", " PPid:\t1\n Uid:\t1\t1\t1\n"})
    CU_ASSERT_FALSE(parse_process_status(text).has_value());
}

struct Tree {
  Word child;
};

// A process with a child, which has such a name. In a process of its own, which adopts the child.
bool ends_tree_of(const char* name, bool in_time) {
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  unit::Shared<Tree> tree;
  const pid_t root = fork();
  if (root == 0) {
    prctl(PR_SET_NAME, name);
    if (const pid_t child = fork()) {
      pause();
      _exit(child < 0);
    }
    prctl(PR_SET_NAME, name);
    tree->child.store(static_cast<uint32_t>(getpid()));
    sleep_for_ever();
  }
  if (!unit::eventually([&] { return tree->child.load() != 0; })) return false;
  const auto child = static_cast<pid_t>(tree->child.load());
  bool right = is_of_user(root, getuid()).value_or(false);
  right &= !is_of_user(root, getuid() + 1).value_or(true);
  signal_trees({root}, SIGTERM, in_time ? kNever : 0);
  int status = 0;
  right &= waitpid(root, &status, 0) == root && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
  right &= contains(own_children().value(), child);
  if (!in_time) kill(child, SIGKILL);
  right &= waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
           WTERMSIG(status) == (in_time ? SIGTERM : SIGKILL);
  return right;
}

void whatever_their_names() {
  for (const char* name : kNames) {
    Child daemon([name] { return ends_tree_of(name, true); });
    CU_ASSERT_TRUE(daemon.succeeded());
  }
}

void roots_at_least() {
  Child daemon([] { return ends_tree_of("x", false); });
  CU_ASSERT_TRUE(daemon.succeeded());
}

}  // namespace

void add_session_tests() {
  static const unit::Test kTests[] = {
      {"our children", our_children},
      {"one that nobody reaped is one", an_unreaped_child_is_one},
      {"a dead supervisor's workers", a_dead_supervisors_workers},
      {"no such session", no_such_session},
      {"a name says nothing", a_name_says_nothing},
      {"no status", no_status},
      {"trees, whatever their names", whatever_their_names},
      {"trees, without time: their roots at least", roots_at_least},
  };
  unit::add_suite("session", kTests);
}
