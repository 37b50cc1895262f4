// The files of the version that runs are exchanged, overwritten or cut short under it: it goes on as it is, whatever dies
// and is replaced meanwhile, until an upgrade takes what is there then.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "ipc/protocol.h"
#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/release.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr char kProgramText[] =
    "import preforkd\n"
    "def answer(connection):\n"
    "    for line in connection.makefile('rb'):\n"
    "        connection.sendall(line)\n"
    "preforkd.serve(answer)\n";

// One of each kind.
std::vector<PoolText> pools(const std::string& workers = "min = 2; max = 24;") {
  std::vector<PoolText> all = {
      {.workers = workers},
      {.name = "cat", .serves = "program = [ \"/bin/cat\" ];", .workers = workers}};
  if (!are_sanitized())  // no interpreter with sanitizers
    all.push_back({.name = "python",
                   .serves = "serve = [ \"python3\", \"@DIR@/app.py\" ];",
                   .workers = workers});
  return all;
}

// Programs are started all the time, and have a processor for it.
void unhurried_echo(Client& client) {
  short_echo(client);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

std::string version_of(Version version) {
  const Outcome said = run({built_of(version, "preforkd"), "--version"});
  return said.out.substr(0, said.out.find('\n'));
}

// A daemon that runs from a folder which a link leads to, with load on each of its pools.
class Running {
 public:
  explicit Running(const std::vector<PoolText>& of = pools()) : prefix_(folder_.file("prefix")) {
    release_to(folder_.file("release-1"), Version::kThis);
    std::filesystem::create_directory_symlink(folder_.file("release-1"), prefix_);
    std::string config = config_of(of);
    const std::string app = folder_.write("app.py", kProgramText);
    for (size_t at; (at = config.find("@DIR@/app.py")) != config.npos;)
      config.replace(at, std::string("@DIR@/app.py").size(), app);
    server_ = std::make_unique<Server>(config, ServerOptions{.program = file("preforkd")});
    for (const PoolText& pool : of) names_.push_back(pool.name);
  }

  Server& server() { return *server_; }
  const std::vector<std::string>& names() const { return names_; }
  const std::string& prefix() const { return prefix_; }
  std::string file(const std::string& name) const { return prefix_ + "/" + name; }
  std::string next_folder() const { return folder_.file("release-2"); }

  // As a package manager does it.
  void move_over(const std::string& from, const std::string& name) {
    std::filesystem::copy_file(from, folder_.file("moved"));
    std::filesystem::rename(folder_.file("moved"), file(name));
  }
  // A link that leads elsewhere from one moment to the other.
  void move_link() {
    release_to(next_folder(), Version::kNext);
    std::filesystem::create_directory_symlink(next_folder(), folder_.file("moved"));
    std::filesystem::rename(folder_.file("moved"), prefix_);
  }

  void begin_load() {
    for (const std::string& name : names_)
      loads_.push_back(std::make_unique<Load>(server_->address(name), 2, unhurried_echo));
  }
  void expect_load_goes_on() {
    std::vector<uint64_t> before;
    for (const auto& load : loads_) before.push_back(load->done());
    for (size_t i = 0; i < loads_.size(); ++i)
      server_->wait_until("clients of " + names_[i] + " are served", kPatience, [&] {
        return loads_[i]->done() > before[i] + 4 || !loads_[i]->error().empty();
      });
  }
  void end_load() {
    for (size_t i = 0; i < loads_.size(); ++i) {
      loads_[i]->stop();
      expect_equal("what clients of " + names_[i] + " lost", loads_[i]->error(), "");
    }
  }

 private:
  TestFolder folder_;
  const std::string prefix_;
  std::unique_ptr<Server> server_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<Load>> loads_;
};

// What cp(1) does: into the file that is there; where the kernel does not let it, because somebody executes that, it
// leaves it (false).
bool write_over(const std::string& file, const std::string& content) {
  UniqueFd fd(open(file.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
  if (!fd.is_open() && errno == ETXTBSY) return false;
  if (!fd.is_open()) throw SysError("open " + file, errno);
  if (write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()))
    throw SysError("write " + file, errno);
  return true;
}

// Whether a process executes this file.
bool executes(pid_t pid, const std::string& file) {
  struct stat its {
  }, named{};
  return stat(("/proc/" + std::to_string(pid) + "/exe").c_str(), &its) == 0 &&
         stat(file.c_str(), &named) == 0 && its.st_dev == named.st_dev &&
         its.st_ino == named.st_ino;
}

void expect_next_supervisor(Server& server, const std::string& pool) {
  const uint32_t generation = server.pool(pool)["generation"];
  kill(server.supervisor(pool), SIGKILL);
  server.wait_for("/generation", generation + 1, pool);
  server.wait_for("/state", "running", pool);
}

// Everything that starts a process: growth, deaths, a reload, a recycle.
void use_all_programs(Running& running) {
  Server& server = running.server();
  for (const std::string& name : running.names()) {
    std::vector<std::unique_ptr<Client>> busy;
    for (int i = 0; i < 5; ++i) {
      busy.push_back(std::make_unique<Client>(server.address(name)));
      expect(busy.back()->echoes("hello\n"), "a pool that grows serves: " + name);
    }
    expect_next_supervisor(server, name);
    expect(Client(server.address(name)).echoes("hello\n"), "the next supervisor serves " + name);
    const Outcome recycled = server.ctl({"recycle", name});
    expect_equal("recycle " + name + ": " + recycled.err, recycled.code, 0);
    for (auto& client : busy) expect(client->echoes("still\n"), "who is served is served on");
  }
  Outcome reload = server.ctl({"reload"});
  expect_equal("exit code of reload: " + reload.err, reload.code, 0);
  const pid_t control = server.control(), log = server.log_writer();
  kill(control, SIGKILL);
  kill(log, SIGKILL);
  server.wait_until("another control answers", kPatience, [&] {
    const pid_t now = server.find_process("preforkd: control");
    return now > 0 && now != control && server.request("GET", "/v1/status").status == 200;
  });
  server.wait_until("another log process is there", kPatience, [&] {
    const pid_t now = server.find_process("preforkd: log");
    return now > 0 && now != log;
  });
  running.expect_load_goes_on();
}

void expect_nothing_failed(Server& server) {
  const std::string log = server.log();
  for (const char* failure : {"degraded", "another version", "refused", "cut short"})
    expect_equal(std::string("said: ") + failure, occurrences(log, failure), 0u);
  const Json status = server.status();
  // Of programs that one may count as crashed whose supervisor was killed between its end and the count.
  const size_t killed = occurrences(log, "pool cat: supervisor of generation ");
  for (const Json& pool : status["pools"])
    expect(pool["lifetime"]["crashed"] <= (pool["name"] == "cat" ? killed : 0),
           "crashed of " + std::string(pool["name"]) + ": " + pool["lifetime"].dump());
}

uint64_t served_of(const Json& status, const std::string& name) {
  for (const Json& pool : status["pools"])
    if (pool["name"] == name) return pool["connections"]["served"];
  throw Failure("no pool " + name);
}

// The upgrade, after which each pool's processes are of the new version as soon as it is recycled.
void expect_upgrade(Running& running) {
  Server& server = running.server();
  const Json before = server.status();
  expect_equal("the old version", "preforkd " + std::string(before["version"]),
               version_of(Version::kThis));
  const pid_t control = server.control();
  const Outcome upgrade = server.ctl({"upgrade"});
  expect_equal("upgrade: " + upgrade.err, upgrade.code, 0);
  expect_contains("what it says", upgrade.out + upgrade.err, version_of(Version::kNext));
  running.expect_load_goes_on();
  server.wait_until("control is of the new version", kPatience, [&] {
    const pid_t now = server.find_process("preforkd: control");
    return now > 0 && now != control && executes(now, running.file("preforkd-control"));
  });
  // What was served before is in the figures still.
  for (const std::string& name : running.names())
    expect(server.pool(name)["connections"]["served"] >= served_of(before, name),
           "no figure falls: " + name);
  const Json after = server.status();
  expect_equal("pid", after["pid"], before["pid"]);
  expect_equal("the new version", "preforkd " + std::string(after["version"]),
               version_of(Version::kNext));
  expect(executes(server.pid(), running.file("preforkd")), "the daemon is of the new version");
  for (const std::string& name : running.names()) {
    const Outcome recycled = server.ctl({"recycle", name});
    expect_equal("recycle " + name + ": " + recycled.err, recycled.code, 0);
    const std::string program =
        name == "echo" ? "preforkd-supervisor" : "preforkd-supervisor-static";
    server.wait_until("the supervisor of " + name + " is of the new version", kPatience,
                      [&] { return executes(server.supervisor(name), running.file(program)); });
    expect(Client(server.address(name)).echoes("hello\n"), "it serves: " + name);
  }
  use_all_programs(running);
}

// Overwritten in place: what is not executed just now is cut short for a while, and then another.
void overwritten() {
  std::vector<PoolText> of = pools();
  Running running(of);
  running.begin_load();
  running.expect_load_goes_on();
  size_t overwritten = 0;
  for (const std::string& name : kPrograms) {
    const std::string next = file_text(built_of(Version::kNext, name));
    overwritten += write_over(running.file(name), next.substr(0, next.size() / 3));
  }
  expect(overwritten >= 1, "libpreforkd at least is written over");
  use_all_programs(running);
  for (const std::string& name : kPrograms)
    write_over(running.file(name), file_text(built_of(Version::kNext, name)));
  // What is executed cannot be written over: that takes a new file, as `cp -f` makes one.
  for (const std::string& name : kPrograms) {
    const Outcome copied = run({"cp", "-f", built_of(Version::kNext, name), running.file(name)});
    expect_equal("cp -f: " + copied.err, copied.code, 0);
  }
  use_all_programs(running);
  expect_nothing_failed(running.server());
  expect_upgrade(running);
  running.end_load();
  expect_nothing_failed(running.server());
}

void moved() {
  Running running;
  running.begin_load();
  running.expect_load_goes_on();
  for (const std::string& name : kPrograms) running.move_over(built_of(Version::kNext, name), name);
  use_all_programs(running);
  expect_nothing_failed(running.server());
  expect_upgrade(running);
  running.end_load();
  expect_nothing_failed(running.server());
}

void link_moved() {
  Running running;
  running.begin_load();
  running.expect_load_goes_on();
  running.move_link();
  use_all_programs(running);
  expect_nothing_failed(running.server());
  expect_upgrade(running);
  running.end_load();
  expect_nothing_failed(running.server());
}

// Nobody executes the one program, and nothing else would protect it; and the library is never protected.
void of_a_kind_that_nobody_runs() {
  Running running({{.workers = "min = 1; max = 4;"}});
  Server& server = running.server();
  for (const char* name : {"preforkd-supervisor-static", "libpreforkd.so.1"})
    expect(write_over(running.file(name), "cut short"), "it can be written over");
  std::string config = file_text(server.folder().file("preforkd.conf"));
  std::vector<PoolText> both = {{.workers = "min = 1; max = 4;"}};
  both.push_back({.name = "cat", .serves = "program = [ \"/bin/cat\" ];"});
  server.write_config(config_of(both));
  const Outcome reload = server.ctl({"reload"});
  expect_equal("exit code of reload: " + reload.err, reload.code, 0);
  expect(Client(server.address("cat")).echoes("hello\n"), "the new pool serves");
  expect(std::filesystem::read_symlink("/proc/" + std::to_string(server.supervisor("cat")) + "/exe")
             .string()
             .starts_with("/memfd:preforkd-supervisor-static"),
         "out of the copy");
}

// A release of which one file is not whole, or of another version, is not upgraded to.
void half_written() {
  Running running;
  Server& server = running.server();
  running.begin_load();
  for (const std::string& name : kPrograms) running.move_over(built_of(Version::kNext, name), name);
  for (const std::string& name : kPrograms) {
    if (name == "preforkctl") continue;
    const std::string next = file_text(built_of(Version::kNext, name));
    // (Of what is executed; what is for debuggers alone comes last, and is the most of it.)
    const std::string half = server.folder().write("half", next.substr(0, 64 * 1024), 0755);
    running.move_over(half, name);
    const Answer refused = server.request("POST", "/v1/upgrade");
    expect_equal("status with half of " + name, refused.status, 409);
    if (name != "preforkd") expect_contains("the reason", refused.body, name);
    // (The log process has no number of its own, as long as both speak the same protocol.)
    if (name != "preforkd" && name != "preforkd-log") {
      running.move_over(built_of(Version::kThis, name), name);
      const Answer mixed = server.request("POST", "/v1/upgrade");
      expect_equal("status with an old " + name, mixed.status, 409);
      expect_contains("the reason", mixed.body, "of another version");
    }
    running.move_over(built_of(Version::kNext, name), name);
    running.expect_load_goes_on();
  }
  expect_upgrade(running);
  running.end_load();
}

// Handlers are nobody's version but their own: each generation has what its file was when it was started.
void a_handler_overwritten() {
  TestFolder folder;
  const std::string mine = folder.file("mine.so");
  std::filesystem::copy_file(built("handlers/echo.so"), mine);
  // (As with `ulimit -S -f 8`: a copy in memory is larger.)
  Server server(
      {PoolText{.serves = "handler = \"" + mine + "\";", .workers = "min = 2; max = 12;"}},
      {.in_child = [] {
        rlimit limit{};
        getrlimit(RLIMIT_FSIZE, &limit);
        limit.rlim_cur = 8 * 1024;
        setrlimit(RLIMIT_FSIZE, &limit);
      }});
  Client busy(server.address());
  expect(busy.echoes("before\n"), "echo");
  auto expect_old_one_serves = [&] {
    expect(busy.echoes("after\n"), "the long one goes on");
    std::vector<std::unique_ptr<Client>> more;
    for (int i = 0; i < 6; ++i) {
      more.push_back(std::make_unique<Client>(server.address()));
      expect(more.back()->echoes("hello\n"), "workers are forked and serve");
    }
  };
  const std::string other = file_text(built("handlers/discard.so"));
  expect(write_over(mine, other.substr(0, other.size() / 20)), "it can be written over");
  expect_old_one_serves();
  const Outcome refused = server.ctl({"recycle", "echo"});
  expect_equal("exit code of recycle", refused.code, 1);
  expect_contains("its reason", refused.err, mine + ": cut short: ");
  expect_old_one_serves();
  write_over(mine, other);
  expect_old_one_serves();
  const Outcome recycled = server.ctl({"recycle", "echo"});
  expect_equal("recycle: " + recycled.err, recycled.code, 0);
  Client client(server.address());
  client.send("hello\n");
  client.half_close();
  expect_equal("the answer of the other", client.read_until_eof(), "");
  expect(busy.echoes("still\n"), "the long one goes on");
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

// A program that is linked with libpreforkd has its own, which calls the one that its supervisor has brought.
void linked_with_another() {
  std::vector<PoolText> of = {
      {.serves = "serve = [ \"" + built("tests/system/programs/serving") + "\" ];",
       .workers = "min = 1; max = 2;"}};
  Running running(of);  // it starts with this version
  Server& server = running.server();
  running.move_link();
  expect_equal("upgrade", server.ctl({"upgrade"}).code, 0);
  const Outcome recycled = server.ctl({"recycle", "echo"});
  expect_equal("recycle: " + recycled.err, recycled.code, 0);
  server.wait_until("its supervisor is of the new version", kPatience, [&] {
    return executes(server.supervisor(), running.file("preforkd-supervisor-static"));
  });
  Client client(server.address());
  for (const auto& [order, answer] : std::vector<std::pair<std::string, std::string>>{
           {"pool", "echo"}, {"number", "1"}, {"descriptors", "0 1 2"}}) {
    client.send(order + "\n");
    expect_equal(order, client.read_line(), answer);
  }
  server.wait_until("it is counted as busy", kPatience,
                    [&] { return server.pool()["workers"]["busy"] == 1; });
  client.half_close();
  expect(client.is_ended(), "it ends");
  server.wait_for("/connections/served", 1);
}

// Told by their first argument what they are to speak, programs of another version end before anything else.
void another_protocol() {
  for (const char* name :
       {"preforkd-supervisor", "preforkd-supervisor-static", "preforkd-control", "preforkd-log"}) {
    const Outcome refused = run({built(name), "--protocol=999.1", kSpeaksOption});
    expect_equal(std::string("exit code of ") + name, refused.code, kSpeaksAnother);
    expect_contains("what it says", refused.err, "this program is of another version");
  }
}

}  // namespace

Suite versions_suite() {
  return {"versions",
          {{"overwritten in place", overwritten},
           {"replaced by others", moved},
           {"the link moves", link_moved},
           {"of a kind that nobody runs", of_a_kind_that_nobody_runs},
           {"half written, or mixed", half_written},
           {"a handler overwritten", a_handler_overwritten},
           {"linked with another", linked_with_another},
           {"another protocol", another_protocol}}};
}

}  // namespace preforkd::system_test
