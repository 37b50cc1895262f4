// Whose memory, descriptors and life is within reach of a pool's processes: nobody's of another trust level, from
// any seat; not of a supervisor that is just starting; and no file that its user may not read.
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"

namespace preforkd::system_test {
namespace {

// --- who is out of reach -------------------------------------------------------------------------

// All of the server but what supervisors of the user's own pools started: the daemon, control, whoever else, and
// every supervisor.
std::vector<pid_t> out_of_reach(Server& server, uid_t user) {
  std::vector<pid_t> all{server.pid()};
  for (pid_t child : children_of(server.pid())) {
    all.push_back(child);
    if (!is_supervisor(child) || uid_of(child) == user) continue;
    for (pid_t worker : children_of(child)) all.push_back(worker);
  }
  return all;
}

std::string listed(const std::vector<pid_t>& pids) {
  std::string text;
  for (pid_t pid : pids) text += " " + std::to_string(pid);
  return text;
}

std::string with_titles(const std::vector<pid_t>& pids) {
  std::string text;
  for (pid_t pid : pids) text += "\n    " + std::to_string(pid) + " " + title_of(pid);
  return text;
}

using Obeys = std::function<std::string(const std::string&)>;

void expect_nothing_reached(Server& server, const std::string& seat, uid_t user, const Obeys& obeys,
                            const std::set<pid_t>& but = {}) {
  std::vector<pid_t> others = out_of_reach(server, user);
  std::erase_if(others, [&](pid_t pid) { return but.contains(pid); });
  expect_contains(seat + ": what it can do where it may", obeys("reach self"), "mem");
  const std::string reached = obeys("reach" + listed(others));
  expect(reached == "nothing", seat + " reached " + reached + " of" + with_titles(others));
  // Between processes of one user the kernel allows that.
  std::erase_if(others, [&](pid_t pid) { return is_supervisor(pid) && uid_of(pid) == user; });
  const std::string disturbed = obeys("disturb" + listed(others));
  expect(disturbed == "nothing", seat + " may disturb " + disturbed + " of" + with_titles(others));
}

void expect_nothing_reached(Server& server, const std::string& pool) {
  Attacker attacker(server.address(pool));
  expect_nothing_reached(server, "pool " + pool, uid_of(supervisor_of(server, pool)),
                         [&](const std::string& order) { return attacker.obeys(order); });
}

std::string with_web(std::string config) {
  const std::string none = "web = \"\"";
  return config.replace(config.find(none), none.size(), "web = \"127.0.0.1:0\"");
}

PoolText without_user(PoolText pool) {
  pool.more = "";
  return pool;
}

std::string as_program() { return "program = [ \"" + attacking_program() + "\" ];"; }

void from_pools_with_users() {
  if (!can_attack()) return;
  Server server(with_web(
      config_of({attacker("handler", attacking_handler()), attacker("program", as_program()),
                 attacker("snake", attacking_script()), bobs_pool()})));
  for (const char* pool : {"handler", "program", "snake"}) expect_nothing_reached(server, pool);
}

// They share whatever user preforkd takes for them, and that is not control's.
void from_pools_without_a_user() {
  if (!can_attack()) return;
  Server server(
      with_web(config_of({without_user(attacker("handler", attacking_handler())),
                          without_user(attacker("program", as_program())),
                          without_user(attacker("snake", attacking_script())), bobs_pool()})));
  for (const char* pool : {"handler", "program", "snake"}) expect_nothing_reached(server, pool);
}

void from_who_is_left_behind() {
  if (!can_attack()) return;
  Server server(with_web(config_of(
      {attacker("alice", attacking_handler("preload = \"@DIR@/alice/preload\";")), bobs_pool()})));
  const std::string of_preload = name_for_left() + "p", of_worker = name_for_left() + "w";
  alices_folder(server);
  const std::string orders =
      server.folder().write("alice/preload", "keep;leave " + of_preload + " obeys\n");
  kill(supervisor_of(server, "alice"), SIGKILL);
  server.wait_until("preload has left it behind", kPatience,
                    [&] { return file_text(orders + ".answers").ends_with("\n"); });
  server.wait_for("/state", "running", "alice");
  Attacker(server.address("alice")).obeys("leave " + of_worker + " obeys");
  std::set<pid_t> theirs;
  for (const std::string& name : {of_preload, of_worker})
    for (pid_t pid : processes_named(name)) theirs.insert(pid);
  expect_equal("left behind", theirs.size(), 2u);
  for (const std::string& name : {of_preload, of_worker}) {
    Attacker left("unix:@" + name);
    expect_nothing_reached(
        server, "left " + name, uid_of(supervisor_of(server, "alice")),
        [&](const std::string& order) { return left.obeys(order); }, theirs);
  }
}

void from_a_local_user() {
  if (!can_attack()) return;
  Server server(with_web(config_of(
      {attacker("alice", attacking_handler()), without_user(bobs_pool("nobodys")), bobs_pool()})));
  const uid_t stranger = getpwnam(kStranger)->pw_uid;
  expect_nothing_reached(server, "a local user", stranger, [](const std::string& order) {
    const Outcome done = run({"setpriv", "--reuid", kStranger, "--regid", kStranger,
                              "--clear-groups", attacking_program(), order});
    return done.out.substr(0, done.out.find('\n'));
  });
}

// --- who is just starting ------------------------------------------------------------------------

std::vector<PoolText> hunting_ground(const std::string& more = "") {
  PoolText hunter = attacker("hunter", as_program(), more);
  hunter.timeouts = "start = 2.0; drain = 20.0;";  // who hunts goes on without its supervisor
  return {hunter, bobs_pool()};
}

// A way into a folder that takes milliseconds: links, each by a detour of a thousand steps, and not more of them
// than the kernel follows.
std::string long_way_in(const TestFolder& folder) {
  constexpr int kLinks = 38;
  constexpr size_t kLongest = 4000;
  std::filesystem::create_directory(folder.file("d"));
  std::string detour;
  while (detour.size() < kLongest) detour += "d/../";
  for (int i = 0; i < kLinks; ++i)
    std::filesystem::create_symlink(detour + (i ? "l" + std::to_string(i - 1) : "d"),
                                    folder.file("l" + std::to_string(i)));
  return folder.file("l" + std::to_string(kLinks - 1));
}

void next_supervisor_is_seized() {
  if (!can_attack()) return;
  Server server(hunting_ground(), with_private_pids());
  wait_until_running(server, 2);
  Attacker hunter(server.address("hunter"));
  hunter.begin("hunt seize 4000");
  const std::string worked = hunter.answer();
  expect_contains("what worked on the next supervisor", worked, "nothing in ");
  expect(worked != "nothing in 0 rounds", "there were rounds");
}

void next_supervisor_is_stopped() {
  if (!can_attack()) return;
  TestFolder folder;
  Server server(hunting_ground("working_directory = \"" + long_way_in(folder) + "\";"),
                with_private_pids());
  wait_until_running(server, 2);
  Attacker hunter(server.address("hunter"));
  hunter.begin("hunt stop 4000");
  expect_steerable(server, "bob", 6);
  const std::string stopped = hunter.answer();
  // (On a loaded machine the hunter may be too slow for any.)
  std::printf("(%s stopped before their exec) ", stopped.c_str());
  expect(Client(server.address("bob")).echoes("hello\n"), "bob's clients are served");
  server.wait_for("/state", "running", "hunter", 20);
  expect(Attacker(server.address("hunter")).obeys("pid") != "", "the hunter's are served again");
}

// --- files that its user may not read ------------------------------------------------------------

constexpr char kSecret[] = "nobody may read this 4711";

// alice's handler, as ever, beside a link to a file of root's.
struct Files {
  explicit Files(Server& server)
      : handler(alices_folder(server) + "/h.so"),
        link(handler + ".link"),
        secret(server.folder().write("secret", kSecret, 0600)) {
    std::filesystem::copy_file(built("tests/system/handlers/trust.so"), handler);
    std::filesystem::create_symlink(secret, link);
    for (const std::string& path : {handler, link}) give_to(kAlice, path);
  }
  void swap() const {
    if (syscall(SYS_renameat2, AT_FDCWD, handler.c_str(), AT_FDCWD, link.c_str(),
                2 /* RENAME_EXCHANGE */) < 0)
      throw SysError("swap " + handler, errno);
  }
  const std::string handler, link, secret;
};

// It begins with a handler of ours, so that there is a folder for hers.
std::vector<PoolText> pools_with(const std::string& handler) {
  return {attacker("alice", "handler = \"" + handler + "\";",
                   std::string("environment = { TRUST_SEEK = \"") + kSecret +
                       "\"; TRUST_FOUND = \"@DIR@/alice/found\"; };"),
          bobs_pool()};
}

void check_file(Server& server) {
  run({built("preforkd"), "-t", "-c", server.folder().file("preforkd.conf")});
}

// Opened by whoever it is: by name, through the link.
void linked_file_is_opened() {
  if (!can_attack()) return;
  Server server(pools_with("@HANDLERS@/trust.so"));
  const Files files(server);
  server.write_config(config_of(pools_with(files.handler)));
  expect_equal("reload", server.request("POST", "/v1/reload").status, 200);
  UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (inotify_add_watch(watch.get(), files.secret.c_str(), IN_OPEN | IN_ACCESS) < 0)
    throw SysError("watch the secret", errno);
  auto opened = [&] {
    char events[4096];
    return read(watch.get(), events, sizeof events) > 0;
  };
  files.swap();
  expect(server.request("POST", "/v1/pools/alice/recycle").status != 200, "recycle is refused");
  expect(!opened(), "recycle does not open the file");
  check_file(server);
  expect(!opened(), "the check does not open the file");
  kill(supervisor_of(server, "alice"), SIGKILL);
  server.wait_until("the next supervisor could not load it", kPatience, [&] {
    return server.pool("alice")["reason"].get<std::string>().find("load") != std::string::npos;
  });
  expect(!opened(), "the next supervisor's start does not open the file");
  files.swap();
  server.wait_for("/state", "running", "alice", 20);
}

// As alice, for so long.
class Swapper {
 public:
  explicit Swapper(const Files& files)
      : pid_(spawn({.argv = {"sleep", "0"}, .in_child = [&files] {
                      const passwd* alice = getpwnam(kAlice);
                      if (setgid(alice->pw_gid) != 0 || setuid(alice->pw_uid) != 0) _exit(126);
                      const Nanoseconds end = monotonic_now() + 20 * kSecond;
                      while (monotonic_now() < end) files.swap();
                    }})) {}
  ~Swapper() {
    kill(pid_, SIGKILL);
    wait_for_child(pid_, kPatience);
  }

 private:
  const pid_t pid_;
};

void linked_file_is_read() {
  if (!can_attack()) return;
  Server server(pools_with("@HANDLERS@/trust.so"));
  const Files files(server);
  const std::string found = server.folder().file("alice/found");
  server.write_config(config_of(pools_with(files.handler)));
  expect_equal("reload", server.request("POST", "/v1/reload").status, 200);
  Swapper swapper(files);
  const Nanoseconds end = monotonic_now() + 5 * kSecond;
  while (monotonic_now() < end && file_text(found).empty()) {
    check_file(server);
    server.request("POST", "/v1/pools/alice/recycle");
  }
  expect_equal("what her constructor found", file_text(found), "");
}

}  // namespace

Suite trust_reach_suite() {
  return {"trust_reach",
          {{"from pools with users", from_pools_with_users},
           {"from pools without a user", from_pools_without_a_user},
           {"from who is left behind", from_who_is_left_behind},
           {"from a local user", from_a_local_user},
           {"the next supervisor is seized", next_supervisor_is_seized},
           {"the next supervisor is stopped", next_supervisor_is_stopped},
           {"a linked file is opened", linked_file_is_opened},
           {"a linked file is read", linked_file_is_read}}};
}

}  // namespace preforkd::system_test
