// preforkd started by somebody odd: descriptors closed, signals ignored and blocked, masks and limits that nobody would
// choose; and signals before it is ready. It serves as ever, and programs find what it was started with.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

// Says things that are for the log, and then as much as it hears.
const PoolText kLoudCat{
    .name = "cat",
    .serves = R"(program = [ "/bin/sh", "-c", "echo a secret >&2; exec cat" ];)",
    .workers = "min = 2; max = 4;"};

PoolText shell(const std::string& command) {
  return {.name = "shell",
          .serves = "program = [ \"/bin/sh\", \"-c\", \"" + command + "\" ];",
          .workers = "min = 1; max = 2;"};
}

std::string said_by(Server& server) { return Client(server.address("shell")).read_until_eof(); }

// --- descriptors ---------------------------------------------------------------------------------

std::string opened_as(pid_t pid, int fd) {
  char target[256] = "";
  const std::string proc = "/proc/" + std::to_string(pid);
  if (readlink((proc + "/fd/" + std::to_string(fd)).c_str(), target, sizeof target - 1) < 0)
    return "closed";
  const std::string info = file_text(proc + "/fdinfo/" + std::to_string(fd));
  const size_t flags = info.find("flags:");
  return std::string(target) + " " +
         (flags == info.npos ? "?" : info.substr(flags + 6).substr(1, 7));
}

// A log line of each process that has one to say, and clients that are there meanwhile.
void closed_descriptors() {
  for (int closed = 1; closed < 8; ++closed) {
    Server server({kLoudCat, PoolText{.workers = "min = 1; max = 2;"}}, {.in_child = [closed] {
                    for (int fd = 0; fd < 3; ++fd)
                      if (closed >> fd & 1) close(fd);
                  }});
    const std::string which = "closed " + std::to_string(closed) + ": ";
    for (int fd = 0; fd < 3; ++fd)
      if (closed >> fd & 1)
        expect_equal(which + "descriptor " + std::to_string(fd), opened_as(server.pid(), fd),
                     fd == 0 ? "/dev/null 0100000" : "/dev/null 0100001");
    Client cat(server.address("cat")), echo(server.address());
    expect(cat.echoes("hello\n") && echo.echoes("hello\n"), which + "served");
    server.write_config("nonsense");
    expect_equal(which + "a bad reload", server.request("POST", "/v1/reload").status, 409);
    kill(server.control(), SIGKILL);
    expect(cat.echoes("hello again\n") && echo.echoes("hello again\n"), which + "served on");
    cat.half_close();
    echo.half_close();
    expect_equal(which + "what is left for the one", cat.read_until_eof(), "");
    expect_equal(which + "what is left for the other", echo.read_until_eof(), "");
  }
}

// --- signals -------------------------------------------------------------------------------------

void ignore_and_block_all() {
  for (int number = 1; number < NSIG; ++number) {
    const uint64_t ignore[8] = {reinterpret_cast<uint64_t>(SIG_IGN)};
    syscall(SYS_rt_sigaction, number, ignore, nullptr, 8);
  }
  const uint64_t all = ~uint64_t{0};
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, 8);
}

// Of an odd start, as `what` makes it: the exit code and what was said.
Outcome run_oddly(const std::vector<std::string>& argv, const TestFolder& folder,
                  const std::function<void()>& what) {
  const std::string file = folder.file("said");
  UniqueFd said(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  const pid_t pid = spawn({.argv = argv, .out = said.get(), .err = said.get(), .in_child = what});
  Outcome outcome;
  outcome.code = exit_code(wait_for_child(pid, 20));
  outcome.out = file_text(file);
  return outcome;
}

// Started by `trap '' CHLD`, or worse.
void ignored_signals() {
  const auto ignore_children = [] { signal(SIGCHLD, SIG_IGN); };
  for (const std::function<void()>& odd :
       {std::function<void()>(ignore_children), std::function<void()>(ignore_and_block_all)}) {
    TestFolder folder;
    const std::string bad = folder.write(
        "bad", folder.expand(config_of({PoolText{.serves = "handler = \"/no/such.so\";"}})));
    const Outcome check = run_oddly({built("preforkd"), "-t", "-c", bad}, folder, odd);
    expect_equal("exit code of a check: " + check.out, check.code, 78);

    Server server({shell("grep -E '^Sig(Blk|Ign)' /proc/self/status"),
                   PoolText{.workers = "min = 2; max = 4;"}},
                  {.in_child = odd});
    expect_equal("a program's signals", said_by(server),
                 "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    const pid_t supervisor = server.supervisor(), worker = server.worker_pids().at(0);
    kill(worker, SIGKILL);
    server.wait_for("/lifetime/crashed", 1);
    kill(supervisor, SIGKILL);
    server.wait_for("/generation", 2);
    server.wait_for("/state", "running");
    expect(Client(server.address()).echoes("hello\n"), "the next supervisor serves");
    kill(server.control(), SIGKILL);
    server.wait_until("the next control answers", kPatience,
                      [&] { return server.pool()["state"] == "running"; });
    server.signal(SIGTERM);
    expect_equal("exit code", server.wait_exit(10), 0);
  }
}

// --- masks and limits ----------------------------------------------------------------------------

mode_t mode_of(const std::string& path) {
  struct stat s {};
  return stat(path.c_str(), &s) == 0 ? s.st_mode & 0777 : 01000;
}

void expect_program_has(Server& server, const std::string& expected) {
  expect_equal("a program has", said_by(server), expected);
  // It is what preforkd was started with over an upgrade, too, and with the supervisors of that image.
  const Answer upgraded = server.request("POST", "/v1/upgrade");
  expect_equal("upgrade: " + upgraded.body, upgraded.status, 200);
  const uint32_t generation = server.pool("shell")["generation"];
  const Outcome recycled = server.ctl({"recycle", "shell"});
  expect_equal("recycle: " + recycled.err, recycled.code, 0);
  server.wait_for("/generation", generation + 1, "shell");
  expect_equal("after an upgrade and a recycle", said_by(server), expected);
}

void file_mode_masks() {
  for (const mode_t mask : {0777u, 0u}) {
    PoolText unix_echo{.listen = "\"unix:@DIR@/echo.sock\"", .workers = "min = 1; max = 2;"};
    Server server({shell("umask"), unix_echo}, {.in_child = [mask] { umask(mask); }});
    expect_equal("the folder", mode_of(server.folder().file("run")), 0755u);
    expect_equal("the pool's socket", mode_of(server.folder().file("echo.sock")), 0666u);
    expect(Client("unix:" + server.folder().file("echo.sock")).echoes("hello\n"), "it serves");
    expect_program_has(server, mask ? "0777\n" : "0000\n");
  }
}

// The limits of descriptors, as /proc shows them: "Max open files SOFT HARD files".
rlimit descriptors_of(pid_t pid) {
  const std::string limits = file_text("/proc/" + std::to_string(pid) + "/limits");
  rlimit limit{};
  const size_t at = limits.find("Max open files");
  if (at == limits.npos || std::sscanf(limits.c_str() + at, "Max open files %lu %lu",
                                       &limit.rlim_cur, &limit.rlim_max) != 2)
    throw Failure("no limits of process " + std::to_string(pid));
  return limit;
}

void expect_raised(const std::string& who, pid_t pid) {
  const rlimit limit = descriptors_of(pid);
  expect_equal(who + "'s soft limit", limit.rlim_cur, limit.rlim_max);
}

// As many pools as that has no descriptors for.
void few_descriptors() {
  constexpr rlim_t kSoft = 64;
  constexpr int kPools = 20;
  std::vector<PoolText> pools = {shell("ulimit -Sn; ulimit -Hn")};
  for (int i = 0; i < kPools; ++i)
    pools.push_back({.name = "pool" + std::to_string(i),
                     .workers = "min = 1; max = 2; min_spare = 0; max_spare = 0;"});
  rlimit ours{};
  getrlimit(RLIMIT_NOFILE, &ours);
  Server server(pools, {.in_child = [] {
                  rlimit limit{};
                  getrlimit(RLIMIT_NOFILE, &limit);
                  limit.rlim_cur = kSoft;
                  setrlimit(RLIMIT_NOFILE, &limit);
                }});
  for (int i = 0; i < kPools; ++i) {
    const std::string name = "pool" + std::to_string(i);
    expect_equal(name, server.pool(name)["state"], "running");
  }
  expect(Client(server.address("pool19")).echoes("hello\n"), "the last one serves");
  expect_raised("the daemon", server.pid());
  expect_raised("a supervisor", server.supervisor("pool0"));
  expect_equal("a handler's", descriptors_of(server.worker_pids("pool0").at(0)).rlim_cur, kSoft);
  expect_program_has(server, std::to_string(kSoft) + "\n" + std::to_string(ours.rlim_max) + "\n");
  expect_raised("the daemon, upgraded,", server.pid());
}

// What a pool has of its own wins.
void a_pools_own_limit() {
  PoolText own = shell("ulimit -Sn; ulimit -Hn");
  own.more = "rlimits = { nofile = 100; };";
  Server server({own}, {.in_child = [] {
                  rlimit limit{};
                  getrlimit(RLIMIT_NOFILE, &limit);
                  limit.rlim_cur = 64;
                  setrlimit(RLIMIT_NOFILE, &limit);
                }});
  expect_equal("a program has", said_by(server), "100\n100\n");
}

// --- signals before it is ready ------------------------------------------------------------------

// A check that does not end by itself for 10 s, and so has whoever waits for it in hand.
PoolText hanging() {
  return {.name = "hangs",
          .serves = "handler = \"@HANDLERS@/hangs.so\";",
          .workers = "min = 1; max = 1; min_spare = 0; max_spare = 0;",
          .timeouts = "start = 0.5;"};
}

pid_t wait_for_check(pid_t starter) {
  pid_t check = 0;
  wait_until("a check is under way", kPatience, [&] {
    for (pid_t child : children_of(starter))
      if (title_of(child) == "preforkd: check hangs") check = child;
    return check > 0;
  });
  return check;
}

void wait_until_gone(pid_t pid) {
  wait_until("the check's process has ended", kPatience, [&] {
    waitpid(pid, nullptr, WNOHANG);  // adopted
    return !is_running(pid);
  });
}

// It is done when the start is, and ends nobody before.
void during_the_start() {
  const PoolText echo{.workers = "min = 1; max = 2;"};
  for (const int number : {SIGHUP, SIGUSR2}) {
    Server server({hanging(), echo}, {.wait_until_ready = false});
    const pid_t check = wait_for_check(server.pid());
    server.write_config(config_of({echo}));
    server.signal(number);
    server.signal(SIGWINCH);  // which nobody handles
    kill(check, SIGKILL);     // its handler is no good: it has the trouble alone
    if (number == SIGUSR2) {
      server.wait_for_log("upgraded from ");
      server.signal(SIGHUP);
    }
    server.wait_until("a reload is done", kPatience,
                      [&] { return server.status()["reloads"] == 1; });
    expect(Client(server.address()).echoes("hello\n"), "it serves");
  }
}

// ^C, and whatever else ends it, with its check.
void the_end_of_a_check() {
  TestFolder folder;
  const std::string file = folder.write("conf", folder.expand(config_of({hanging(), PoolText{}})));
  for (const bool is_check : {true, false})
    for (const int number : {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGKILL}) {
      if (!is_check && number == SIGHUP) continue;
      std::vector<std::string> argv = {built("preforkd"), "-c", file, "--runtime-dir",
                                       folder.file("run")};
      if (is_check) argv.emplace_back("-t");
      const pid_t pid = spawn({.argv = argv, .in_child = ignore_and_block_all});
      const pid_t check = wait_for_check(pid);
      kill(pid, number);
      expect_equal("exit code", exit_code(wait_for_child(pid, 5)), 128 + number);
      wait_until_gone(check);
    }
}

}  // namespace

Suite odd_start_suite() {
  return {"odd_start",
          {{"closed descriptors", closed_descriptors},
           {"ignored signals", ignored_signals},
           {"file mode masks", file_mode_masks},
           {"few descriptors", few_descriptors},
           {"a pool's own limit", a_pools_own_limit},
           {"during the start", during_the_start},
           {"the end of a check", the_end_of_a_check}}};
}

}  // namespace preforkd::system_test
