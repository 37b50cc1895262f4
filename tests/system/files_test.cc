// Files of Unix sockets that are removed, moved away, or have another put in their place, while the daemon runs: the pool has a
// socket there again, who waited in the old one is served, and what a stranger has put there is left alone.
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

namespace fs = std::filesystem;

// A server with a folder for its sockets.
struct Stage {
  TestFolder folder;
  std::string path = folder.file("sock"), address = "unix:" + path;
  PoolText pool{.listen = "\"" + address + "\", \"127.0.0.1:0\"",
                .serves = unruly(),
                .workers = "min = 1; max = 4;",
                .timeouts = "drain = 5.0;"};
};

bool is_served(const std::string& address) {
  auto client = Client::try_connect(address);
  if (!client) return false;
  client->send("p");
  return !client->read_line().empty();
}

void expect_back(Server& server, const std::string& address, const std::string& after) {
  server.wait_until("it is back after " + after, kPatience, [&] { return is_served(address); });
  server.wait_for("/state", "running");
  expect(is_served(server.address("echo", 1)), "the other address is served after " + after);
  struct stat s {};
  expect(stat(address.substr(5).c_str(), &s) == 0 && (s.st_mode & 0777) == 0666,
         "for everybody, after " + after);
}

// With nobody asking for anything.
void by_itself() {
  Stage stage;
  Server server({stage.pool});
  Client busy(stage.address);
  const pid_t serving = pid_serving(busy);
  unlink(stage.path.c_str());
  expect_back(server, stage.address, "its removal");
  server.wait_for_log("degraded: the file of " + stage.address + " was removed");
  expect_equal("who was served goes on", pid_serving(busy), serving);
  fs::rename(stage.path, stage.path + ".moved");
  expect_back(server, stage.address, "its renaming");
  fs::rename(stage.path + ".moved", stage.path);  // one that nobody listens on by now
  expect_back(server, stage.address, "another's being put there");
  fs::rename(stage.folder.path(), stage.folder.path() + ".moved");
  fs::create_directory(stage.folder.path());
  chmod(stage.folder.path().c_str(), 0755);
  expect_equal("a reload", server.request("POST", "/v1/reload").status, 200);
  expect_back(server, stage.address, "another folder in place of its own");
  fs::remove_all(stage.folder.path() + ".moved");
  server.signal(SIGTERM);
  expect_equal("exit code", server.wait_exit(), 0);
  expect(!fs::exists(stage.path), "a stop removes the last one");
}

// Who waits in the queue of the old one.
void who_waits() {
  Stage stage;
  stage.pool.workers = "min = 1; max = 1; min_spare = 0;";
  Server server({stage.pool});
  Client busy(stage.address);
  const pid_t serving = pid_serving(busy);
  std::vector<Client> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.emplace_back(stage.address);
    waiting.back().send("p");
  }
  unlink(stage.path.c_str());
  server.wait_until("another is there", kPatience, [&] { return fs::exists(stage.path); });
  expect_equal("who was served goes on", pid_serving(busy), serving);
  busy.close();
  for (Client& client : waiting) {
    expect(!client.read_line().empty(), "who waited is served");
    client.close();
  }
  expect_back(server, stage.address, "its removal");
  server.wait_for("/connections/failed", 0);
}

// Whatever makes the daemon look finds that it is gone; nothing tells of a link that leads elsewhere.
void at_the_latest() {
  const struct {
    const char* what;
    std::function<void(Server&)> look;
  } kLooks[] = {
      {"a reload", [](Server& s) { s.request("POST", "/v1/reload"); }},
      {"a recycle", [](Server& s) { s.request("POST", "/v1/pools/echo/recycle"); }},
      {"a HUP", [](Server& s) { s.signal(SIGHUP); }},
      {"an upgrade",
       [](Server& s) {
         // Refused as long as the reload of the HUP is not over, which nobody waits for.
         s.wait_until("it is taken", kPatience,
                      [&] { return s.request("POST", "/v1/upgrade").status == 200; });
       }},
      {"a drain and a resume",
       [](Server& s) {
         s.request("POST", "/v1/pools/echo/drain");
         s.wait_for("/state", "stopped");
         s.request("POST", "/v1/pools/echo/resume");
       }},
  };
  TestFolder folder;
  for (const char* name : {"a", "b"}) fs::create_directory(folder.file(name));
  fs::create_symlink("a", folder.file("now"));
  const std::string address = "unix:" + folder.file("now/sock");
  Stage stage;
  stage.pool.listen = "\"" + address + "\", \"127.0.0.1:0\"";
  Server server({stage.pool});
  const char* next = "b";
  for (const auto& one : kLooks) {
    // (That of before leads to a socket which a leaving generation may listen on yet.)
    fs::remove(folder.file(next + std::string("/sock")));
    fs::create_symlink(next, folder.file("next"));
    fs::rename(folder.file("next"), folder.file("now"));
    next = *next == 'b' ? "a" : "b";
    expect(!is_served(address), "nobody is there before " + std::string(one.what));
    one.look(server);
    expect_back(server, address, one.what);
  }
}

// A stranger's socket, on which he listens, another file, a link: the pool says who is there, serves its other address, and
// is back when that is gone.
void what_a_stranger_puts_there() {
  Stage stage;
  Server server({stage.pool});
  auto expect_left_alone = [&](const std::string& what, const std::string& said) {
    server.wait_for("/state", "degraded");
    server.wait_until("it says who is there: " + what, kPatience, [&] {
      return server.pool()["reason"].get<std::string>().find(said) != std::string::npos;
    });
    // (What was on its way when the file went may take its turn yet.)
    server.wait_for_one_generation();
    const uint32_t generation = server.pool()["generation"];
    expect_equal("a reload", server.request("POST", "/v1/reload").status, 200);
    expect(is_served(server.address("echo", 1)), "the other address is served");
    expect_equal("the generation", server.pool()["generation"], generation);
    expect_equal("the state", server.pool()["state"], "degraded");
  };
  {
    unlink(stage.path.c_str());
    std::ofstream(stage.path) << "precious";
  }
  expect_left_alone("a file", "(a regular file of uid " + std::to_string(getuid()) + " is there)");
  expect_equal("what is in it", file_text(stage.path), "precious");
  unlink(stage.path.c_str());
  expect_back(server, stage.address, "a stranger's file");

  const std::string elsewhere = stage.folder.file("elsewhere");
  fs::remove(stage.path);
  fs::create_symlink(elsewhere, stage.path);
  expect_left_alone("a link", "a symbolic link");
  expect(!fs::exists(elsewhere), "nothing is made where it leads");
  unlink(stage.path.c_str());
  expect_back(server, stage.address, "a stranger's link");

  fs::remove(stage.path);
  UniqueFd theirs(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{AF_UNIX, {}};
  stage.path.copy(address.sun_path, sizeof address.sun_path - 1);
  expect_equal("bind", bind(theirs.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
               0);
  expect_left_alone("a socket whose owner does not listen yet", "a socket of uid");
  theirs.reset();
  expect_back(server, stage.address, "a socket that nobody has any more");

  TestFolder others;
  fs::remove(stage.path);
  {
    PoolText same = stage.pool;
    same.serves = "handler = \"echo\";";
    Server second({same});
    struct stat made {
    }, now{};
    expect_equal("stat", stat(stage.path.c_str(), &made), 0);
    // (Which of the two was faster is chance.)
    if (second.pool()["state"] == "running") {
      expect_left_alone("another preforkd's socket",
                        "on which process " + std::to_string(second.pid()) + " listens");
      expect(Client(stage.address).echoes("hello\n"), "it is the other's");
      stat(stage.path.c_str(), &now);
      expect_equal("the other's file", now.st_ino, made.st_ino);
    }
    second.signal(SIGTERM);
    second.wait_exit();
  }
  expect_back(server, stage.address, "another preforkd");
}

// Its stop removes what it has made, and no other's.
void a_second_preforkd() {
  Stage stage;
  PoolText other = stage.pool;
  other.serves = "handler = \"echo\";";
  Server first({stage.pool});
  kill(first.pid(), SIGSTOP);  // it sees nothing of it
  unlink(stage.path.c_str());
  Server second({other});
  expect_equal("the second", second.pool()["state"], "running");
  first.signal(SIGTERM);
  kill(first.pid(), SIGCONT);
  first.wait_exit();
  expect(Client(stage.address).echoes("hello\n"), "the second one's socket is there");
  // A link stands in place of the folder of the first one's.
  TestFolder folder;
  fs::create_directory(folder.file("a"));
  fs::create_directory(folder.file("b"));
  PoolText linked = stage.pool;
  linked.listen = "\"unix:" + folder.file("a/sock") + "\"";
  Server third({linked});
  std::ofstream(folder.file("b/sock")) << "precious";
  fs::rename(folder.file("a"), folder.file("was"));
  fs::create_symlink("b", folder.file("a"));
  third.signal(SIGTERM);
  expect_equal("exit code", third.wait_exit(), 0);
  expect_equal("what the link leads to", file_text(folder.file("b/sock")), "precious");
}

// What its owner may do to a file all the time does not keep the daemon busy.
void another_mode_all_the_time() {
  Stage stage;
  Server server({stage.pool});
  auto processor_ticks = [&] {
    const std::string stat = file_text("/proc/" + std::to_string(server.pid()) + "/stat");
    std::istringstream words(stat.substr(stat.rfind(')') + 2));
    std::string word;
    uint64_t ticks = 0;
    for (int field = 3; field <= 15 && words >> word; ++field)
      if (field >= 14) ticks += std::stoull(word);
    return ticks;
  };
  const uint64_t before = processor_ticks();
  const Nanoseconds until = monotonic_now() + kSecond;
  for (unsigned i = 0; monotonic_now() < until; ++i) chmod(stage.path.c_str(), i % 2 ? 0666 : 0660);
  chmod(stage.path.c_str(), 0666);
  expect(processor_ticks() - before < 25, "a quarter of a processor");
  expect_equal("the state", server.pool()["state"], "running");
  expect_equal("the generation", server.pool()["generation"], 1);
  expect(is_served(stage.address), "it serves");
}

}  // namespace

Suite files_suite() {
  return {"files",
          {{"by itself", by_itself},
           {"who waits", who_waits},
           {"at the latest", at_the_latest},
           {"what a stranger puts there", what_a_stranger_puts_there},
           {"a second preforkd", a_second_preforkd},
           {"another mode, all the time", another_mode_all_the_time}}};
}

}  // namespace preforkd::system_test
