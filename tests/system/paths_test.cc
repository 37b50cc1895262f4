// Unix sockets in folders that belong to a pool's user, who exchanges them for links while the daemon, as root, makes,
// finds and removes them. Whatever that user does, root's own files stay as they are, and nothing is made beside them.
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/installation.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr char kAlice[] = "games", kBob[] = "daemon";
constexpr int kLinks = 36;     // the kernel follows 40
constexpr int kDetours = 800;  // in each link: "d/../", so that the way through takes a millisecond

void give_to(const std::string& path, const char* name) {
  const passwd* user = getpwnam(name);
  if (lchown(path.c_str(), user->pw_uid, user->pw_gid) < 0)
    throw Failure("cannot give " + path + " to " + name);
}

void make_folder(const std::string& path, mode_t mode, const char* owner) {
  std::filesystem::create_directory(path);
  chmod(path.c_str(), mode);
  give_to(path, owner);
}

void link_to(const std::string& target, const std::string& path, const char* owner) {
  std::filesystem::create_symlink(target, path);
  give_to(path, owner);
}

std::string content_of(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  std::string all;
  for (const std::string& name : names) all += name + " ";
  return all;
}

// Alice's folder, with a slow way to the socket in it, and root's beside it, where her links lead.
class Trap {
 public:
  Trap() {
    make_folder(root_.file("full"), 0700, "root");
    make_folder(root_.file("empty"), 0700, "root");
    for (const char* name : {"full/precious", "full/sock"}) root_.write(name, "precious", 0600);
    make_folder(alice(), 0755, kAlice);
    make_folder(alice() + "/d", 0755, kAlice);
    make_folder(alice() + "/app", 0755, kAlice);
    std::string detour;
    for (int i = 0; i < kDetours; ++i) detour += "d/../";
    for (int i = 0; i < kLinks; ++i)
      link_to(detour + (i + 1 < kLinks ? std::to_string(i + 1) : "app"),
              alice() + "/" + std::to_string(i), kAlice);
    link_to(root_.file("full"), alice() + "/to-full", kAlice);
    link_to(root_.file("empty"), alice() + "/to-empty", kAlice);
    link_to(root_.file("full/precious"), alice() + "/app/to-precious", kAlice);
  }

  std::string alice() const { return root_.file("alice"); }
  std::string socket() const { return alice() + "/0/sock"; }
  PoolText pool(const std::string& more_sockets = "") const {
    return {.listen = "\"unix:" + socket() + "\"" + more_sockets,
            .more = std::string("user = \"") + kAlice + "\";"};
  }

  void expect_unharmed(const std::string& after) const {
    for (const char* name : {"full/precious", "full/sock"}) {
      struct stat s {};
      if (!expect(lstat(root_.file(name).c_str(), &s) == 0, name + (" is there after " + after)))
        continue;
      expect(S_ISREG(s.st_mode) && (s.st_mode & 07777) == 0600,
             name + (" has its mode after " + after));
      expect_equal(name + (" after " + after), file_text(root_.file(name)), "precious");
    }
    expect_equal("the full folder after " + after, content_of(root_.file("full")),
                 "precious sock ");
    expect_equal("the empty folder after " + after, content_of(root_.file("empty")), "");
  }

 private:
  TestFolder root_;
};

// Exchanges names of Alice's all the time.
class Swapper {
 public:
  Swapper(const Trap& trap, const std::vector<std::string>& names) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) throw Failure("pipe");
    UniqueFd from(ends[0]), to(ends[1]);
    std::vector<std::string> argv = {built("tests/system/programs/swapper"), kAlice, trap.alice()};
    argv.insert(argv.end(), names.begin(), names.end());
    pid_ = spawn({.argv = argv, .out = to.get()});
    to.reset();
    char ready[8];
    expect(read(from.get(), ready, sizeof ready) > 0, "the swapper swaps");
  }
  ~Swapper() {
    kill(pid_, SIGKILL);
    wait_for_child(pid_, kPatience);
  }

 private:
  pid_t pid_;
};

const std::vector<std::string> kSocket = {"app/sock", "app/to-precious"},
                               kFolderFull = {"app", "to-full"}, kFolderEmpty = {"app", "to-empty"},
                               kAll = {"app/sock", "app/to-precious", "app", "to-full",
                                       "app",      "to-empty"};

bool needs_root() {
  if (!is_root()) skip("needs users of its own");
  return !is_root();
}

// It may come up or give up: what it finds is not what it has made.
void start_and_stop(const Trap& trap) {
  Server server(config_of({trap.pool()}), {.wait_until_ready = false});
  wait_until("it is up, or has given up", kPatience, [&] {
    return !is_running(server.pid()) || server.log().find("ready: ") != std::string::npos;
  });
  if (is_running(server.pid())) server.signal(SIGTERM);
  server.wait_exit();
}

void against_starts_and_stops() {
  if (needs_root()) return;
  for (const auto* names : {&kSocket, &kFolderFull, &kFolderEmpty, &kAll})
    for (int round = 0; round < 3; ++round) {
      const Trap trap;
      const Swapper swapper(trap, *names);
      start_and_stop(trap);
      trap.expect_unharmed("a start and a stop");
    }
}

void against_reloads() {
  if (needs_root()) return;
  const Trap trap;
  const std::string without = config_of({PoolText{.more = trap.pool().more}});
  Server server(without);
  for (const auto* names : {&kSocket, &kFolderFull, &kFolderEmpty, &kAll}) {
    const Swapper swapper(trap, *names);
    for (int round = 0; round < 3; ++round) {
      server.write_config(config_of({trap.pool(", \"127.0.0.1:0\"")}));
      server.request("POST", "/v1/reload");  // made, or refused
      trap.expect_unharmed("a reload that adds the socket");
      server.write_config(without);
      expect_equal("status of the reload that takes it away",
                   server.request("POST", "/v1/reload").status, 200);
      trap.expect_unharmed("a reload that takes it away");
    }
  }
  expect(Client(server.address()).echoes("hello\n"), "it serves");
}

// Root with no rights to files, as under pool-users.conf, makes what the user may make, and finds it again.
void in_a_users_own_folder() {
  if (needs_root()) return;
  TestFolder folder;
  make_folder(folder.file("app"), 0711, kAlice);
  const std::string path = folder.file("app/sock"), address = "unix:" + path;
  const PoolText pool{.listen = "\"" + address + "\"",
                      .more = std::string("user = \"") + kAlice + "\";"};
  Installation installed;
  const std::vector<std::string> kAsUnderSystemd = {"setpriv", "--bounding-set",
                                                    "-all,+setuid,+setgid,+kill,+net_bind_service"};
  Server server(config_of({pool}), {.program = installed.preforkd(), .under = kAsUnderSystemd});
  auto expect_served = [&](const std::string& after) {
    struct stat s {};
    expect_equal("stat after " + after, lstat(path.c_str(), &s), 0);
    expect(S_ISSOCK(s.st_mode) && (s.st_mode & 0777) == 0666, "open to everybody after " + after);
    expect_equal("owner after " + after, s.st_uid, getpwnam(kAlice)->pw_uid);
    expect_equal("address after " + after, server.address(), address);
    expect(Client(address).echoes("hello\n"), "served after " + after);
  };
  expect_served("the start");
  expect_equal("upgrade", server.ctl({"upgrade"}).code, 0);
  expect_served("an upgrade");
  // A supervisor's or a worker's rights are not those that the daemon lent itself.
  kill(server.supervisor(), SIGKILL);
  server.wait_for("/generation", 2);
  expect_served("the death of its supervisor");
  server.signal(SIGKILL);
  server.wait_exit();
  wait_until("the workers have left", kPatience, [&] { return server.left_behind().empty(); });
  expect(std::filesystem::exists(path), "a killed daemon leaves it");
  server.start_again();
  expect_served("another start");
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(), 0);
  expect(!std::filesystem::exists(path), "a stopped one does not");
}

// Where another than the pool's user could exchange it, nothing is made; the message says what to do.
void in_somebody_elses_folder() {
  if (needs_root()) return;
  TestFolder folder;
  make_folder(folder.file("bob"), 0755, kBob);
  const std::string path = folder.file("bob/sock"), bob = folder.file("bob");
  PoolText pool{.listen = "\"unix:" + path + "\"",
                .more = std::string("user = \"") + kAlice + "\";"};
  {
    Server server(config_of({pool}), {.wait_until_ready = false});
    expect_refused_start(server, 71,
                         "bind unix:" + path + " as user " + kAlice + " (" + bob +
                             " belongs to uid 1, so root makes no file there: let " + kAlice +
                             " write to the folder, or give it, and all above it, to root): "
                             "Permission denied");
  }
  {
    Server server("control = { web = \"\"; socket = \"" + bob + "/control\"; };\n" +
                      config_of({PoolText{}}).substr(strlen("control = { web = \"\"; };\n")),
                  {.wait_until_ready = false});
    expect_refused_start(server, 71,
                         "control: bind unix:" + bob + "/control: " + bob +
                             " belongs to uid 1, and root uses folders only that "
                             "nobody else can change");
  }
  {
    Server server(config_of({PoolText{}}),
                  {.wait_until_ready = false, .arguments = {"--runtime-dir", bob + "/run"}});
    expect_refused_start(
        server, 71,
        "runtime directory " + bob + "/run is not ours alone: " + bob + " belongs to uid 1");
  }
  expect_equal("what bob has", content_of(bob), "");
}

// Another daemon has made its control socket where ours was: that one is not removed.
void leaves_others_sockets_alone() {
  Server server(config_of({PoolText{}}));
  std::filesystem::rename(server.socket(), server.socket() + ".moved");
  std::ofstream(server.socket()) << "another's";
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(), 0);
  expect_equal("what took its place", file_text(server.socket()), "another's");
}

}  // namespace

Suite paths_suite() {
  return {"paths",
          {{"a user who exchanges paths, against starts and stops", against_starts_and_stops},
           {"a user who exchanges paths, against reloads", against_reloads},
           {"in a user's own folder", in_a_users_own_folder},
           {"in somebody else's folder", in_somebody_elses_folder},
           {"leaves others' sockets alone", leaves_others_sockets_alone}}};
}

}  // namespace preforkd::system_test
