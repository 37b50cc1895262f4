// What the system refuses: ports, rights, descriptors, processes, shared memory. Where the daemon can go
// on, it does, and says so; where it cannot, it exits with 71 and leaves nothing.
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

// --- addresses and rights ------------------------------------------------------------------------

// Whoever has the page's port keeps no pool from serving.
void control_port_in_use() {
  auto port = std::make_unique<TakenPort>();
  const std::string address = port->address();
  const std::string config =
      "control = { web = " + port->quoted() +
      "; }; pools = ( { name = \"a\"; listen = [ \"127.0.0.1:0\" ]; handler = \"echo\"; } );";
  Server server(config);
  server.wait_for_log("control.web: bind " + address +
                      ": Address already in use: pools serve without the page");
  expect(Client(server.address("a")).echoes("hello\n"), "the pool serves");
  expect_equal("a reload", server.request("POST", "/v1/reload").status, 200);
  expect_equal("an upgrade", server.request("POST", "/v1/upgrade").status, 200);
  port.reset();
  server.wait_for_log("control.web: listening on " + address);
  server.wait_until("the page is there", kPatience,
                    [&] { return Client::try_connect(address).has_value(); });
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(), 0);
}

// A runtime directory that nobody owns, for daemons that are nobody's.
std::string folder_of_nobody(const TestFolder& folder) {
  const std::string path = folder.file("nobodys");
  std::filesystem::create_directory(path);
  give_to_nobody(path);
  return path;
}

ServerOptions as_nobody(const TestFolder& folder) {
  return {.wait_until_ready = false,
          .arguments = {"--runtime-dir", folder_of_nobody(folder)},
          .in_child = become_nobody};
}

void no_right_to_a_port() {
  if (std::stoi(file_text("/proc/sys/net/ipv4/ip_unprivileged_port_start")) <= 1)
    return skip("every port is open to everybody here");
  TestFolder folder;
  Server server({PoolText{.listen = "\"127.0.0.1:1\""}}, as_nobody(folder));
  expect_refused_start(server, 71,
                       "preforkd: error: pool echo: bind 127.0.0.1:1: Permission denied\n");
}

void no_right_to_a_path() {
  TestFolder folder;
  const std::string path = (is_root() ? folder.path() : std::string("/proc")) + "/echo.sock";
  Server server({PoolText{.listen = "\"unix:" + path + "\""}}, as_nobody(folder));
  expect_equal("exit code", server.wait_exit(), 71);
  expect_contains("the log", server.log(), "preforkd: error: pool echo: bind unix:" + path + ": ");
  expect(!std::filesystem::exists(path), "no socket is left");
}

void no_right_to_the_runtime_directory() {
  TestFolder folder;
  const std::string path = (is_root() ? folder.path() : std::string("/proc")) + "/runtime";
  ServerOptions options = as_nobody(folder);
  options.arguments = {"--runtime-dir", path};
  Server server({PoolText{}}, options);
  expect_refused_start(server, 71, "preforkd: error: make runtime directory " + path + ": ");
}

void second_daemon_on_one_runtime_directory() {
  Server first({PoolText{}});
  Client client(first.address());
  {
    Server second({PoolText{}}, {.wait_until_ready = false,
                                 .arguments = {"--runtime-dir", first.folder().file("run")}});
    expect_equal("exit code", second.wait_exit(), 71);
    expect_contains("the log", second.log(),
                    "control: bind unix:" + first.socket() + " (a socket of uid ");
  }
  expect(client.echoes("still there\n"), "the first one's connection");
  expect_equal("the first one's control socket answers", first.status()["pid"].get<pid_t>(),
               first.pid());
}

// --- descriptors ---------------------------------------------------------------------------------

void few_descriptors() {
  if (are_sanitized())
    return skip("the sanitizer reports errors of its own when it cannot open a pipe");
  bool was_refused = false, came_up = false;
  for (unsigned count = 5; count <= 40; ++count) {
    Server server({PoolText{.workers = "min = 1; max = 2;"}},
                  {.wait_until_ready = false, .in_child = [=] { limit_descriptors(count); }});
    const std::string with = "with " + std::to_string(count) + " descriptors: ";
    system_test::wait_until(with + "it is ready or has ended", kPatience, [&] {
      return !is_running(server.pid()) || occurrences(server.log(), "ready: 1 of 1 pools running");
    });
    if (is_running(server.pid())) {
      came_up = true;
      expect(Client(server.address()).echoes("hello\n"), with + "the echo");
    } else {
      was_refused = true;
      expect_equal(with + "exit code", server.wait_exit(), 71);
      expect_contains(with + "log", server.log(), "Too many open files\n");
      expect(!std::filesystem::exists(server.socket()), with + "no control socket is left");
    }
  }
  expect(was_refused && came_up, "the range has both ends");
  expect_no_segment_left();
}

// The soft limit of a shell.
void the_usual_limit_is_enough() {
  Server server({PoolText{.workers = "min = 64; max = 64;"}},
                {.in_child = [] { limit_descriptors(1024); }});
  expect(Client(server.address()).echoes("hello\n"), "the echo");
}

// A limit at which it gets no descriptor more.
rlim_t lowest_free_descriptor(pid_t pid) {
  rlim_t free = 0;
  while (
      std::filesystem::is_symlink("/proc/" + std::to_string(pid) + "/fd/" + std::to_string(free)))
    ++free;
  return free;
}

// Only a process of the same user may set another's limits without CAP_SYS_RESOURCE, so that a child
// becomes that user first.
void set_limit(pid_t pid, __rlimit_resource resource, rlim_t soft) {
  const std::string status = file_text("/proc/" + std::to_string(pid) + "/status");
  auto id = [&](const char* key) {
    return static_cast<unsigned>(std::stoul(status.substr(status.find(key) + 5)));
  };
  const unsigned uid = id("\nUid:"), gid = id("\nGid:");
  pid_t child = fork();
  if (child == 0) {
    rlimit limit{};
    bool done = (!is_root() || (setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0)) &&
                prlimit(pid, resource, nullptr, &limit) == 0;
    limit.rlim_cur = soft;
    done = done && prlimit(pid, resource, &limit, nullptr) == 0;
    _exit(done ? 0 : errno);
  }
  if (int error = exit_code(wait_for_child(child, kPatience))) throw SysError("prlimit", error);
}

void worker_out_of_descriptors() {
  Server server({PoolText{.workers = "min = 1; max = 1; min_spare = 0; max_spare = 0;"}});
  const pid_t worker = server.worker_pids().at(0);
  const rlim_t enough_to_wait = lowest_free_descriptor(worker);
  const std::string said = "accept: Too many open files; trying again every 50 ms\n";
  for (size_t shortage = 1; shortage <= 2; ++shortage) {
    set_limit(worker, RLIMIT_NOFILE, enough_to_wait);
    Client client(server.address());
    client.send("hello\n");
    server.wait_until("the worker says that it is short of descriptors", kPatience,
                      [&] { return occurrences(server.log(), said) == shortage; });
    expect_equal("queued", server.pool()["backlog"]["queued"].get<int>(), 1);
    expect(!client.has_answer(), "nobody can answer");
    // It tries again and again, which wakes it each time: once more than it slept when it complained.
    auto sleeps = [&] {
      std::string status = file_text("/proc/" + std::to_string(worker) + "/status");
      return std::stol(status.substr(status.find("\nvoluntary_ctxt_switches:") + 25));
    };
    const long before = sleeps();
    server.wait_until("it has tried three times more", kPatience,
                      [&] { return sleeps() >= before + 3; });
    expect_equal("how often it said so", occurrences(server.log(), said), shortage);
    set_limit(worker, RLIMIT_NOFILE, 100);
    expect_equal("answer, once there are descriptors", client.read_line(), "hello");
    client.close();
    server.wait_for("/workers/idle", 1);
  }
  expect_equal("the worker is still the same", server.worker_pids().at(0), worker);
  expect_exact_figures(server, "echo", 2);
}

// --- processes -----------------------------------------------------------------------------------

constexpr char kUnusedUser[] = "news";  // has no processes; root's forks are never refused

// Above what control's user may have running already, and below what the pools here want.
constexpr rlim_t kProcesses = 400;

bool can_refuse_forks() {
  if (!is_root()) skip("only root can run a pool as another user");
  if (is_root() && !getpwnam(kUnusedUser)) skip("there is no user news");
  return is_root() && getpwnam(kUnusedUser);
}

void fork_refused_while_running() {
  if (!can_refuse_forks()) return;
  Server server({PoolText{.workers = "min = 2; max = 20; min_spare = 2; max_spare = 2;",
                          .more = "user = \"games\";"}});
  const pid_t supervisor = server.supervisor();
  set_limit(supervisor, RLIMIT_NPROC, 1);
  std::vector<Client> clients;
  for (int i = 0; i < 2; ++i) clients.emplace_back(server.address());
  for (Client& client : clients) expect(client.echoes("hello\n"), "served by those that are there");
  const std::string said =
      "fork: Resource temporarily unavailable: going on with 2 workers, trying again\n";
  server.wait_until("the supervisor says that it cannot fork", kPatience,
                    [&] { return occurrences(server.log(), said) == 1; });
  Client third(server.address());
  third.send("third\n");
  server.wait_until("`why` has the reason", kPatience, [&] {
    return occurrences(server.decisions().dump(), "could not grow: the system refused another") > 0;
  });
  expect(clients[0].echoes("again\n"), "those that are there serve on");
  const std::string reason = "fork: Resource temporarily unavailable";
  expect_equal("the pool", server.pool()["state"], "degraded");
  expect_equal("why", server.pool()["reason"], reason);
  clients.erase(clients.begin());
  expect_equal("who waited is served by the first that is free", third.read_line(), "third");

  set_limit(supervisor, RLIMIT_NPROC, 1000);
  std::vector<Client> more;
  for (int i = 0; i < 5; ++i) more.emplace_back(server.address());
  for (Client& client : more) expect(client.echoes("hello\n"), "served by new workers");
  server.wait_until("the log says so", kPatience, [&] {
    return occurrences(server.log(), "fork: processes are to be had again\n") == 1;
  });
  expect_equal("how often it was said", occurrences(server.log(), "going on with"), 1u);
  server.wait_for("/state", "running");
  expect_equal("the same supervisor", server.supervisor(), supervisor);
  for (auto* them : {&clients, &more}) them->clear();
  third.close();
  expect_exact_figures(server, "echo", 8);
}

void fork_refused_at_start() {
  if (!can_refuse_forks()) return;
  Server server(
      {PoolText{.workers = "min = 500; max = 500; starting = 500;", .more = "user = \"games\";"}},
      {.in_child = [] {
        rlimit limit{kProcesses, 1000};
        setrlimit(RLIMIT_NPROC, &limit);
      }});
  const size_t there = server.worker_pids().size();
  expect(there > 0 && there < kProcesses, std::to_string(there) + " workers");
  expect_equal("the pool", server.pool()["state"], "degraded");
  server.wait_for_log("fork: Resource temporarily unavailable: going on with");
  expect(Client(server.address()).echoes("hello\n"), "those that are there serve");
  set_limit(server.supervisor(), RLIMIT_NPROC, 1000);
  server.wait_until("all workers are there", kPatience,
                    [&] { return server.pool()["workers"]["total"] == 500; });
  server.wait_for("/state", "running");
  expect_exact_figures(server, "echo", 1);
}

// It was never ready, but those that are there serve: they finish what they have in hand, in peace.
void stopped_while_forks_are_refused() {
  if (!can_refuse_forks()) return;
  Server server(
      {PoolText{.workers = "min = 500; max = 500; starting = 500;", .more = "user = \"games\";"}},
      {.in_child = [] {
        rlimit limit{kProcesses, 1000};
        setrlimit(RLIMIT_NPROC, &limit);
      }});
  Client client(server.address());
  expect(client.echoes("before\n"), "served");
  server.signal(SIGTERM);
  server.wait_until("it is stopping", kPatience,
                    [&] { return server.status()["stopping"] == true; });
  expect(client.echoes("after\n"), "served to the end");
  client.close();
  expect_equal("exit code", server.wait_exit(), 0);
  expect_equal("complaints of workers", occurrences(server.log(), ": worker "), 0u);
}

// --- shared memory -------------------------------------------------------------------------------

// In the child: a /dev/shm of its own, with room for so many kilobytes.
void small_dev_shm(const char* kilobytes) {
  const std::string options = std::string("size=") + kilobytes + "k,mode=1777";
  if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
      mount("tmpfs", "/dev/shm", "tmpfs", 0, options.c_str()) < 0) {
    perror("make a small /dev/shm");
    _exit(77);
  }
}

// Whoever fills it takes nothing from anybody.
void full_dev_shm() {
  Server server({PoolText{}}, {.wait_until_ready = false, .in_child = [] { small_dev_shm("4"); }});
  if (server.has_exited()) return skip("no right to mount: " + server.log());
  server.wait_until_ready();
  const pid_t supervisor = server.supervisor();
  kill(supervisor, SIGKILL);
  server.wait_until("another supervisor is there", kPatience, [&] {
    const pid_t next = server.supervisor();
    return next > 0 && next != supervisor;
  });
  expect_equal("reload", server.ctl({"recycle", "echo"}).code, 0);
  expect(Client(server.address()).echoes("hi\n"), "served");
}

}  // namespace

Suite resources_suite() {
  return {"resources",
          {{"control.web in use", control_port_in_use},
           {"no right to a port", no_right_to_a_port},
           {"no right to a path", no_right_to_a_path},
           {"no right to the runtime directory", no_right_to_the_runtime_directory},
           {"a second daemon on one runtime directory", second_daemon_on_one_runtime_directory},
           {"few descriptors", few_descriptors},
           {"1024 descriptors are enough", the_usual_limit_is_enough},
           {"a worker out of descriptors", worker_out_of_descriptors},
           {"fork refused while running", fork_refused_while_running},
           {"fork refused at start", fork_refused_at_start},
           {"stopped while forks are refused", stopped_while_forks_are_refused},
           {"full /dev/shm", full_dev_shm}}};
}

}  // namespace preforkd::system_test
