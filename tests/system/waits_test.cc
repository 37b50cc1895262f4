// What preforkd waits for (doc/RELIABILITY.md has the table, a line for each test), stopped one by one: the daemon goes
// on meanwhile, and after the deadline it does what the table says. What comes with the daemon's own end, or
// with another image of it, is in waits_end_test.cc.
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "ipc/channel.h"
#include "tests/system/conditions.h"
#include "tests/system/suites.h"
#include "tests/system/trust.h"
#include "tests/system/waits.h"

namespace preforkd::system_test {
namespace {

constexpr double kSlack = 3;  // seconds beyond a deadline, on a machine with others on it

PoolText bad(const std::string& serves = "handler = \"echo\";") {
  return {.name = "bad",
          .serves = serves,
          .workers = "min = 1; max = 4;",
          .timeouts = "start = 1.0; drain = 1.0;"};
}

void until_reason_has(Watched& watched, const std::string& text, double seconds) {
  watched.until("its pool says \"" + text + "\"", seconds, [&] {
    const std::string reason = watched.server.pool("bad")["reason"];
    if (reason.find(text) == std::string::npos) throw Failure("it says \"" + reason + "\"");
    return true;
  });
}

// --- a generation that comes ---------------------------------------------------------------------

void a_childs_exec() {
  PoolText pool = bad();
  pool.timeouts = "";
  Watched watched({pool});
  const pid_t before = supervisor_of(watched.server, "bad");
  Held child = Held::next_child(watched.server.pid(), [&] { kill(before, SIGKILL); });
  until_reason_has(watched, "could not be executed in time", 5 + kSlack);
  watched.until("it is killed", kSlack, [&] { return child.is_gone(); });
  watched.server.wait_for("/state", "running", "bad");
}

void a_preload() {
  Watched watched({bad(attacking_handler("hang_while = \"@DIR@/hang\";"))});
  const std::string hang = watched.server.folder().write("hang", "");
  kill(supervisor_of(watched.server, "bad"), SIGKILL);
  until_reason_has(watched, "did not get through preload in time (timeouts.start)", 5 + kSlack);
  unlink(hang.c_str());
  watched.server.wait_for("/state", "running", "bad");
}

void a_workers_start() {
  TestFolder folder;
  const std::string hang = folder.write("hang", "");
  Watched watched({bad(unruly("start_while = \"" + hang + "\";"))}, {.wait_until_ready = false});
  watched.until_log_has("ready: 1 of 2 pools running; bad is degraded", 1.5 + kSlack);
  watched.until_log_has("did not get through start in 1000 ms: killed", kSlack);
  unlink(hang.c_str());
  watched.server.wait_for("/state", "running", "bad", 2 * kPatience);
}

void a_trial() {
  Watched watched({bad(unruly())});
  Server& server = watched.server;
  server.folder().write("hang", "");
  const Json generation = server.pool("bad")["generation"];
  server.write_config(config_of({bad(unruly("start_while = \"@DIR@/hang\";")),
                                 {.name = "other", .workers = "min = 1; max = 4;"}}));
  server.signal(SIGHUP);
  watched.until_log_has("reload refused, nothing was changed: ", 1 + kSlack);
  expect_contains("the reason", server.log(), "pool bad: the new generation failed: ");
  expect_equal("generation", server.pool("bad")["generation"], generation);
  expect_equal("state", server.pool("bad")["state"], "running");
}

// --- a file system -------------------------------------------------------------------------------

// A folder over which, while this lives, lies a file system that answers nobody: FUSE, served by one that reads what is
// asked, and says nothing. No signal ends the wait for that.
class Hung {
 public:
  explicit Hung(std::string folder)
      : folder_(std::move(folder)), fuse_(open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK)) {
    if (!fuse_.is_open()) throw SysError("open /dev/fuse", errno);
    const std::string how =
        "fd=" + std::to_string(fuse_.get()) + ",rootmode=40755,user_id=0,group_id=0,allow_other";
    if (mount("hung", folder_.c_str(), "fuse", MS_NOSUID | MS_NODEV, how.c_str()) < 0)
      throw SysError("mount on " + folder_, errno);
    server_ = std::jthread([this](std::stop_token stop) { serve(stop); });
  }
  ~Hung() {
    umount2(folder_.c_str(), MNT_DETACH);
    server_.request_stop();
    server_.join();
    fuse_.reset();  // who hangs there goes on with an error
  }
  Hung(const Hung&) = delete;
  Hung& operator=(const Hung&) = delete;

 private:
  void serve(std::stop_token stop) {
    std::vector<char> asked(FUSE_MIN_READ_BUFFER * 16);
    while (!stop.stop_requested()) {
      pollfd p{fuse_.get(), POLLIN, 0};
      if (poll(&p, 1, 10) <= 0) continue;
      if (read(fuse_.get(), asked.data(), asked.size()) < 0) continue;
      fuse_in_header header{};
      std::memcpy(&header, asked.data(), sizeof header);
      if (header.opcode == FUSE_INIT) greet(header.unique);
    }
  }
  void greet(uint64_t unique) {
    struct {
      fuse_out_header header;
      fuse_init_out init;
    } said{};
    said.header = {sizeof said, 0, unique};
    said.init.major = FUSE_KERNEL_VERSION;
    said.init.minor = FUSE_KERNEL_MINOR_VERSION;
    said.init.max_write = 4096;
    [[maybe_unused]] ssize_t ignored = write(fuse_.get(), &said, sizeof said);
  }

  const std::string folder_;
  UniqueFd fuse_;
  std::jthread server_;
};

bool can_hang() {
  const bool can = access("/dev/fuse", R_OK | W_OK) == 0;
  if (!can) skip("there is no FUSE");
  return can;
}

void a_sockets_folder() {
  if (!can_hang()) return;
  const std::string no_answer = "/bad.sock: its file system does not answer";
  TestFolder folder;
  const std::string dir = folder.file("hung");
  std::filesystem::create_directory(dir);
  std::optional<Hung> hung(dir);
  PoolText pool = bad();
  pool.listen = "\"unix:" + dir + "/bad.sock\", \"unix:" + dir + "/other.sock\"";
  Watched watched({pool}, {.wait_until_ready = false});
  Server& server = watched.server;
  watched.until_log_has(
      "ready: 1 of 2 pools running; bad is degraded: bind unix:" + dir + no_answer, kSlack);
  int looks = 0;
  watched.until("it is tried again and again", kPatience * slowness(),
                [&] { return ++looks > 20; });
  expect(children_of(server.pid()).size() < 8, "without a child for each try");
  hung.reset();
  server.wait_for("/state", "running", "bad", 4 * kPatience);
  expect(Client(server.address("bad")).echoes("hello\n"), "it serves");
  hung.emplace(dir);
  server.write_config(config_of({{.name = "other", .workers = "min = 1; max = 4;"}}));
  Client reload = begin_request(server, "POST", "/v1/reload");
  watched.until("the pool is removed", 1 + kSlack, [&] { return reload.has_answer(); });
  server.wait_for_log("remove unix:" + dir + no_answer);
  server.wait_for_log("pool bad: generation 1 has ended");
  hung.reset();
}

void a_handlers_folder() {
  if (!can_hang()) return;
  TestFolder folder;
  const std::string dir = folder.file("hung"), handler = dir + "/echo.so";
  std::filesystem::create_directory(dir);
  std::filesystem::copy_file(built("handlers/echo.so"), handler);
  Watched watched({bad("handler = \"" + handler + "\";")});
  std::optional<Hung> hung(dir);
  kill(supervisor_of(watched.server, "bad"), SIGKILL);
  until_reason_has(watched, "could not be executed in time", 1 + kSlack);
  hung.reset();
  watched.server.wait_for("/state", "running", "bad", 2 * kPatience);
}

// --- a supervisor --------------------------------------------------------------------------------

void an_acknowledgement() {
  Watched watched({bad()});
  const pid_t supervisor = supervisor_of(watched.server, "bad");
  Held held(supervisor);
  Client asked =
      begin_request(watched.server, "PATCH", "/v1/pools/bad/limits", "{\"shrink_after\": 30}");
  watched.until("who has asked is answered", 6 + kSlack,
                [&] { return held.is_gone() && asked.has_answer(); });
  watched.server.wait_for_log("supervisor " + std::to_string(supervisor) +
                              " has been silent for 5 s: killed");
  watched.server.wait_for("/state", "running", "bad");
  expect(supervisor_of(watched.server, "bad") != supervisor, "there is another one");
}

void a_stopped_supervisor() {
  Watched watched({bad()});
  const pid_t supervisor = supervisor_of(watched.server, "bad");
  kill(supervisor, SIGSTOP);
  watched.until_log_has(
      "supervisor " + std::to_string(supervisor) + " has been stopped for 5 s: killed", 5 + kSlack);
  watched.server.wait_until("there is another one", kPatience,
                            [&] { return supervisor_of(watched.server, "bad") != supervisor; });
  watched.server.wait_for("/state", "running", "bad");
}

void the_death_of_who_hung_up() {
  PoolText pool = bad(unruly("close_preload = true; hang_preload = true;"));
  pool.timeouts = "";
  Watched watched({pool}, {.wait_until_ready = false});
  watched.until_log_has("has closed its channel: killed", 1 + kSlack);
}

void a_drain() {
  Watched watched({maddening()});
  Server& server = watched.server;
  const pid_t supervisor = go_mad(server);
  expect_equal("drain", server.request("POST", "/v1/pools/bad/drain").status, 200);
  watched.until_log_has("supervisor " + std::to_string(supervisor) +
                            " was told to leave and has not: it is killed, and its workers with it",
                        1 + 5 + kSlack);
  watched.until("the pool is stopped", kSlack,
                [&] { return server.pool("bad")["state"] == "stopped"; });
}

// By the supervisor, within the daemon's own deadline.
void connections_in_a_drain() {
  Watched watched({stubborn()});
  Server& server = watched.server;
  const ServedForEver served(server);
  expect_equal("recycle", server.request("POST", "/v1/pools/bad/recycle").status, 200);
  watched.until("the worker is killed", 1 + 1 + kSlack, [&] { return !is_running(served.worker); });
  server.wait_for_log("generation 1 has ended");
}

void workers_without_a_supervisor() {
  Watched watched({stubborn()});
  Server& server = watched.server;
  const ServedForEver served(server);
  kill(supervisor_of(server, "bad"), SIGKILL);
  watched.until("the worker is killed", 1 + 1 + kSlack, [&] { return !is_running(served.worker); });
  server.wait_for_log("workers of generation 1 are not done in time: ended");
  server.wait_for_log("generation 1 has ended");
}

// --- a reload ------------------------------------------------------------------------------------

// Its 30 s, and what comes then, are in suite `loading`: "nothing takes for ever".
void a_configuration() {
  if (are_sanitized()) return skip("sanitizers want to be loaded first");
  Watched watched({bad()}, {.in_child = [] {
                    setenv("LD_PRELOAD", built("tests/system/handlers/slow_names.so").c_str(), 1);
                  }});
  Server& server = watched.server;
  PoolText slow = bad();
  slow.listen = "\"slow.test:0\"";
  server.write_config(config_of({slow}));
  server.signal(SIGHUP);
  kill(server.wait_for_process("preforkd: loading"), SIGSTOP);
  const Answer another = server.request("POST", "/v1/reload");
  expect_equal("another reload", another.status, 409);
  int looks = 0;
  watched.until("it was looked at again and again", kPatience, [&] { return ++looks > 20; });
  expect_stops(server, 1);
}

void the_workers_count() {
  Watched watched({bad()});
  Held held(supervisor_of(watched.server, "bad"));
  Client recycle = begin_request(watched.server, "POST", "/v1/pools/bad/recycle");
  watched.until("the recycle is answered", 6 + kSlack,
                [&] { return held.is_gone() && recycle.has_answer(); });
  expect_contains("the answer", recycle.read_line(), " 200 ");
}

void a_reloads_settling() {
  Watched watched({maddening()});
  const pid_t supervisor = go_mad(watched.server);
  Client recycle = begin_request(watched.server, "POST", "/v1/pools/bad/recycle");
  watched.until("the reload is answered", 2 + 1 + 2, [&] { return recycle.has_answer(); });
  expect_contains("the answer", recycle.read_line(), " 200 ");
  expect(is_running(supervisor), "the old supervisor has not left");
}

// Who waits behind one who is served for ever, by a generation that leaves.
PoolText full() {
  PoolText pool = stubborn();
  pool.workers = "min = 1; max = 1; min_spare = 0; max_spare = 1;";
  pool.timeouts = "drain = 20.0;";
  return pool;
}

void a_queue() {
  Watched watched({full()});
  Server& server = watched.server;
  Client busy(server.address("bad")), queued(server.address("bad"));
  pid_serving(busy);
  server.write_config(config_of({{.name = "other", .workers = "min = 1; max = 4;"}}));
  expect_equal("reload", server.request("POST", "/v1/reload").status, 200);
  watched.until("who waits is let down", 5 + kSlack, [&] { return queued.has_answer(); });
  expect(!busy.has_answer(), "who is served goes on");
}

// A client whose side never finishes it.
void a_handshake() {
  Watched watched({full()});
  Server& server = watched.server;
  const Client deaf = Client::deaf(server.address("bad"));
  server.wait_until("it is answered", kPatience,
                    [&] { return is_shaking_hands(server.address("bad")); });
  server.write_config(config_of({{.name = "other", .workers = "min = 1; max = 4;"}}));
  expect_equal("reload", server.request("POST", "/v1/reload").status, 200);
  watched.until_log_has("pool bad: generation 1 has ended", 2 + kSlack);
}

// Whoever may not be served by the next user's processes yet is held up by those of the last one.
void an_address() {
  TakenPort port;
  port.free();
  PoolText pool = full();
  pool.listen = port.quoted();
  pool.more = std::string("user = \"") + kAlice + "\";";
  Watched watched({pool});
  Server& server = watched.server;
  Client busy(server.address("bad")), queued(server.address("bad"));
  pid_serving(busy);
  pool.more = std::string("user = \"") + kBob + "\";";
  server.write_config(config_of({pool, {.name = "other", .workers = "min = 1; max = 4;"}}));
  Client reload = begin_request(server, "POST", "/v1/reload");
  watched.until("the address has moved", 6 + kSlack, [&] { return reload.has_answer(); });
  expect_contains("the answer", reload.read_line(), " 200 ");
}

// --- what clients have left ----------------------------------------------------------------------

// A TCP socket, to a peer that does not read, that its end would have to wait for.
UniqueFd lingering(const TakenPort& peer) {
  const Client client(peer.address());
  UniqueFd fd(fcntl(client.fd(), F_DUPFD_CLOEXEC, 3));
  const linger patience{1, 30};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &patience, sizeof patience);
  const std::string bytes(1 << 20, 'x');
  while (send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
  }
  return fd;
}

// In the queue of a Unix socket, whose pool is taken away.
void the_end_of_a_queue() {
  PoolText pool = stubborn();
  pool.listen = "\"unix:@DIR@/bad.sock\"";
  pool.workers = "min = 1; max = 1; min_spare = 0; max_spare = 1;";
  Watched watched({pool});
  Server& server = watched.server;
  Client busy(server.address("bad")), queued(server.address("bad"));
  pid_serving(busy);
  busy.send("t");
  Channel sender(UniqueFd(fcntl(queued.fd(), F_DUPFD_CLOEXEC, 3)));
  const std::byte one{};
  const TakenPort peer;
  const auto sent = sender.send({&one, 1}, {}, lingering(peer).get());
  expect(sent == Channel::Sent::kYes, "it is sent along");
  server.write_config(config_of({{.name = "other", .workers = "min = 1; max = 4;"}}));
  expect_equal("reload", server.request("POST", "/v1/reload").status, 200);
  watched.until_log_has("pool bad: generation 1 has ended", 1 + 1 + kSlack);
  watched.until("it is not shown any more", kSlack,
                [&] { return server.status()["pools"].size() == 1; });
  watched.until("the daemon goes on", kSlack, [] { return true; });
}

// --- control, the log, systemd -------------------------------------------------------------------

void until_there_is_another_control(Watched& watched, pid_t before) {
  watched.uses_signals(false);
  watched.server.wait_until("there is another one", kPatience,
                            [&] { return watched.server.control() != before; });
  watched.until("it answers", kPatience, [] { return true; });
}

void controls_sign_of_life() {
  Watched watched({});
  const pid_t control = watched.server.control();
  Held held(control);
  watched.uses_signals(true);
  const Client asks = begin_request(watched.server, "GET", "/v1/status");
  watched.until("it is killed", 5 + kSlack, [&] { return held.is_gone(); });
  watched.server.wait_for_log("control " + std::to_string(control) +
                              " has been silent for 5 s: killed");
  until_there_is_another_control(watched, control);
}

void a_stopped_control() {
  Watched watched({});
  const pid_t control = watched.server.control();
  kill(control, SIGSTOP);
  watched.uses_signals(true);
  watched.until_log_has("control " + std::to_string(control) + " has been stopped for 5 s: killed",
                        5 + kSlack);
  watched.server.wait_for_log("control " + std::to_string(control) +
                              " died (killed by signal 9 (Killed)): starting another");
  until_there_is_another_control(watched, control);
}

void the_log_process() {
  Watched watched({bad()});
  Server& server = watched.server;
  const pid_t stopped = server.log_writer();
  kill(stopped, SIGSTOP);
  watched.until("there is another one", kSlack, [&] { return server.log_writer() != stopped; });
  server.wait_for_log("the log process " + std::to_string(stopped) +
                      " was stopped by a signal: killed");
  const pid_t writer = server.log_writer();
  Held held(writer);
  expect_equal("recycle", server.ctl({"recycle", "bad"}).code, 0);
  watched.until("there is a third one", 5 + kSlack,
                [&] { return held.is_gone() && server.log_writer() != writer; });
  server.wait_for_log("the log process " + std::to_string(writer) +
                      " has been silent for 5 s: killed");
  server.wait_for_log("pool bad: recycled");  // which the one that was held has never read
  server.wait_for_log("what it had read and not written is lost");
}

// Each client has the log flooded.
void the_logs_reader() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) throw SysError("pipe", errno);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  Watched watched({bad("program = [ \"/bin/sh\", \"-c\", \"yes 'a line of a flood' | head -c "
                       "8000000 >&2; echo done\" ];")},
                  {.in_child = [&] { dup2(write_end.get(), 2); }});
  Client flooder(watched.server.address("bad"));
  watched.until("who floods has done", kPatience, [&] { return flooder.has_answer(); });
  expect_equal("its answer", flooder.read_line(), "done");
  // Still nobody has read: the last words have a second.
  expect_stops(watched.server, 1 + kSlack);
  write_end.reset();
  std::string text;
  char some[65536];
  for (ssize_t n; (n = read(read_end.get(), some, sizeof some)) > 0;)
    text.append(some, static_cast<size_t>(n));
  expect(text.size() < 1'000'000, "what was kept has a bound: " + std::to_string(text.size()));
}

// A systemd whose queue is full already.
void systemds_reading() {
  TestFolder folder;
  const std::string name = folder.file("notify");
  sockaddr_un address{AF_UNIX, {}};
  name.copy(address.sun_path, sizeof address.sun_path - 1);
  const auto* at = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd manager(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)),
      filler(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (bind(manager.get(), at, sizeof address) < 0) throw SysError("bind " + name, errno);
  while (sendto(filler.get(), "X=1", 3, 0, at, sizeof address) == 3) {
  }
  Watched watched({bad()}, {.in_child = [&] { setenv("NOTIFY_SOCKET", name.c_str(), 1); }});
  Server& server = watched.server;
  expect_contains("upgrade", server.ctl({"upgrade"}).err, "systemd does not read");
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  std::string heard;
  watched.until("systemd hears it all", kPatience, [&] {
    char text[4096];
    for (ssize_t n; (n = recv(manager.get(), text, sizeof text, 0)) > 0;)
      heard += std::string(text, static_cast<size_t>(n)) + "|";
    const size_t reloading = heard.find("RELOADING=1");
    return reloading != heard.npos && heard.find("|READY=1", reloading) != heard.npos;
  });
  expect(heard.find("READY=1") < heard.find("RELOADING=1"), "in the order of the events");
}

// --- the table -----------------------------------------------------------------------------------

std::vector<Test> rows() {
  std::vector<Test> all = {
      {"a child's exec", a_childs_exec},
      {"a preload", a_preload},
      {"a worker's start", a_workers_start},
      {"a trial", a_trial},
      {"a socket's folder", a_sockets_folder},
      {"a handler's folder", a_handlers_folder},
      {"an acknowledgement", an_acknowledgement},
      {"a stopped supervisor", a_stopped_supervisor},
      {"the death of who hung up", the_death_of_who_hung_up},
      {"a drain", a_drain},
      {"connections in a drain", connections_in_a_drain},
      {"workers without a supervisor", workers_without_a_supervisor},
      {"a configuration", a_configuration},
      {"the workers' count", the_workers_count},
      {"a reload's settling", a_reloads_settling},
      {"a queue", a_queue},
      {"a handshake", a_handshake},
      {"an address", an_address},
      {"the end of a queue", the_end_of_a_queue},
      {"control's sign of life", controls_sign_of_life},
      {"a stopped control", a_stopped_control},
      {"the log process", the_log_process},
      {"the log's reader", the_logs_reader},
      {"systemd's reading", systemds_reading},
  };
  for (const Test& test : waits_for_the_end()) all.push_back(test);
  return all;
}

// Each line of the table has its test, and each test its line.
void the_table() {
  const auto sources =
      std::filesystem::absolute(__FILE__).parent_path().parent_path().parent_path();
  std::istringstream text(file_text(sources / "doc/RELIABILITY.md"));
  std::set<std::string> told, tested;
  for (std::string line; std::getline(text, line);) {
    const std::string mark = "| `waits: ", end = "` |";
    const size_t at = line.rfind(mark);
    if (at == line.npos || !line.ends_with(end)) continue;
    const size_t begin = at + mark.size();
    const std::string name = line.substr(begin, line.size() - end.size() - begin);
    expect(told.insert(name).second, "one line is for " + name);
  }
  for (const Test& test : rows()) tested.insert(test.name);
  for (const std::string& name : told) expect(tested.contains(name), "there is a test: " + name);
  for (const std::string& name : tested) expect(told.contains(name), "there is a line: " + name);
}

void run_row() {
  if (!is_root()) return skip("only root can hold another user's processes");
  run_side_by_side(rows());
}

}  // namespace

Suite waits_suite() {
  std::vector<Test> tests = {{"the table", the_table}};
  for (const Test& row : rows()) tests.push_back({row.name, run_row});
  return {"waits", tests};
}

}  // namespace preforkd::system_test
