// How connections end: who sends what is not read before the answer gets the answer, and no reset; whoever serves, over
// TCP and Unix sockets, and behind nginx. What lingers holds nobody up, has an end, and leaves nothing behind.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>

#include "base/clock.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr char kAnswer[] =
    "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\nanswer\n";
// The same as printf(1), Python and Perl read it.
constexpr char kWritten[] =
    R"(HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\nanswer\n)";

// --- who answers without reading -----------------------------------------------------------------

PoolText pool(const std::string& name, const std::string& serves,
              const std::string& workers = "min = 2; max = 4; min_spare = 0;") {
  return {.name = name,
          .listen = R"("127.0.0.1:0", "unix:@DIR@/)" + name + ".sock\"",
          .serves = serves,
          .workers = workers,
          .timeouts = "drain = 10.0;"};
}

std::string handler(const std::string& how = "") {
  return R"(handler = "@HANDLERS@/answers.so"; settings = { how = ")" + how + "\"; };";
}

// As one argument of sh, in the configuration.
std::string shell(const std::string& script) {
  std::string quoted;
  for (char c : script) quoted += (c == '"' || c == '\\' ? "\\" : "") + std::string(1, c);
  return R"(program = ["/bin/sh", "-c", ")" + quoted + "\"];";
}

std::string printing() { return shell("printf '" + std::string(kWritten) + "'"); }

const TestFolder& scripts() {
  static const TestFolder folder;
  return folder;
}

std::string python() {
  return R"(serve = ["python3", ")" +
         scripts().write("answers.py",
                         "import preforkd\nfor c in preforkd.connections():\n  c.sendall(b\"" +
                             std::string(kWritten) + "\")\n") +
         "\"];";
}

std::string perl() {
  return R"(serve = ["perl", ")" +
         scripts().write("answers.pl",
                         "use Preforkd;\nwhile (my $c = Preforkd->next) { print { $c->handle } \"" +
                             std::string(kWritten) + "\" }\n") +
         "\"];";
}

// Made once: a script that is written again is empty for a moment, and a worker may be about to read it.
const std::vector<PoolText>& every_kind() {
  static const std::vector<PoolText> kinds = [] {
    std::vector<PoolText> all = {pool("handler", handler()), pool("program", printing())};
    if (are_sanitized()) return all;  // an interpreter cannot load a library with sanitizers
    all.push_back(pool("python", python()));
    all.push_back(pool("perl", perl()));
    return all;
  }();
  return kinds;
}

std::vector<std::string> kinds() {
  std::vector<std::string> names;
  for (const PoolText& pool : every_kind()) names.push_back(pool.name);
  return names;
}

// --- clients -------------------------------------------------------------------------------------

constexpr size_t kSmall = 100'000, kLarge = 5'000'000;

std::string_view body(size_t size) {
  static const std::string bytes(kLarge, 'b');
  return std::string_view(bytes).substr(0, size);
}

// Sends all of it, and reads the answer after that. "": it was answered so.
std::string trouble(const std::string& address, std::string_view sent,
                    const std::string& expected = kAnswer) {
  try {
    Client client(address);
    client.send(sent);
    const std::string answer = client.read_until_eof();
    return answer == expected ? "" : "answered \"" + answer + "\"";
  } catch (const Failure& e) {
    return e.what();
  }
}

pid_t closer(Server& server, const std::string& name = "echo") {
  return server.wait_for_process("preforkd: closer " + name);
}

constexpr size_t kOwnDescriptors = 5;  // of a closer

size_t descriptors_of(pid_t pid) {
  using std::filesystem::directory_iterator;
  const directory_iterator all("/proc/" + std::to_string(pid) + "/fd");
  return static_cast<size_t>(std::distance(all, directory_iterator{}));
}

// One that is answered, and whose connection the closer has until it ends it.
struct LingeringClient {
  Client client;

  explicit LingeringClient(Server& server) : client(server.address()) {
    client.send(body(kSmall));
    if (client.read_until_eof() != kAnswer) throw Failure("it was not answered");
  }
  void expect_lingers(std::source_location where = std::source_location::current()) {
    try {
      client.send(body(kLarge));
    } catch (const Failure& e) {
      expect(false, std::string("it does not linger: ") + e.what(), where);
    }
  }
  bool is_cut_off() {
    return send(client.fd(), "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN;
  }
};

Server answering(const std::string& workers = "min = 1; max = 1; min_spare = 0;") {
  return Server({pool("echo", handler(), workers)});
}

// --- what clients see ----------------------------------------------------------------------------

void a_body_that_is_not_read() {
  Server server(every_kind());
  for (const std::string& kind : kinds())
    for (const size_t listen : {0, 1})
      for (const size_t size : {kSmall, kLarge})
        for (int i = 0; i < 3; ++i)
          expect_equal(
              kind + ", " + std::to_string(size) + " bytes, socket " + std::to_string(listen),
              trouble(server.address(kind, listen), body(size)), "");
  for (const std::string& kind : kinds()) {
    server.wait_for("/connections/served", 12, kind);
    expect_equal(kind + " failed", server.pool(kind)["connections"]["failed"], 0);
  }
}

class Nginx {
 public:
  // Server i is before the i-th of these.
  explicit Nginx(const std::vector<std::string>& addresses) {
    std::string servers;
    for (const std::string& address : addresses) {
      listen_.push_back("unix:" + folder_.file(std::to_string(listen_.size()) + ".sock"));
      servers += "server { listen " + listen_.back() + "; location / { proxy_pass http://" +
                 address + "; } }\n";
    }
    const std::string path = folder_.file("");
    const std::string config = folder_.write(
        "nginx.conf", "daemon off; master_process off; pid " + path + "pid;\n" +
                          "error_log stderr;\nevents {}\nhttp { access_log off;\n" +
                          "client_max_body_size 0;\n" + temporary(path) + servers + "}\n");
    const std::string log = folder_.file("log");
    UniqueFd out(open(log.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    pid_ = spawn({.argv = {"/usr/sbin/nginx", "-e", "stderr", "-c", config},
                  .out = out.get(),
                  .err = out.get()});
    wait_until("nginx listens", kPatience, [&] {
      if (!is_running(pid_)) throw Failure("nginx has ended: " + file_text(log));
      return Client::try_connect(listen_.back()).has_value();
    });
  }
  ~Nginx() {
    kill(pid_, SIGTERM);
    wait_for_child(pid_, kPatience);
  }
  Nginx(const Nginx&) = delete;
  Nginx& operator=(const Nginx&) = delete;

  const std::string& before(size_t i) const { return listen_.at(i); }
  std::string log() const { return file_text(folder_.file("log")); }

 private:
  static std::string temporary(const std::string& path) {
    std::string all;
    for (const std::string kind : {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"})
      all += kind + "_temp_path " + path + kind + ";\n";
    return all;
  }
  const TestFolder folder_;
  std::vector<std::string> listen_;
  pid_t pid_ = 0;
};

// Of a request with a body of this size: the first line of what nginx answers.
std::string status_behind(const std::string& address, size_t size) {
  Client client(address);
  client.send("POST / HTTP/1.0\r\nContent-Length: " + std::to_string(size) + "\r\n\r\n");
  client.send(body(size));
  const std::string answer = client.read_until_eof();
  return answer.substr(0, answer.find('\r')) +
         (answer.ends_with("\r\n\r\nanswer\n") ? "" : ", without the answer");
}

void behind_nginx() {
  Server server(every_kind());
  const std::vector<std::string> names = kinds();
  std::vector<std::string> addresses;
  for (const std::string& kind : names) addresses.push_back(server.address(kind));
  const Nginx nginx(addresses);
  for (const size_t size : {kSmall, kLarge})
    for (size_t kind = 0; kind < names.size(); ++kind)
      for (int i = 0; i < (are_thorough() ? 300 : 6); ++i)
        expect_equal(names[kind] + ", " + std::to_string(size) + " bytes",
                     status_behind(nginx.before(kind), size), "HTTP/1.1 200 OK");
  expect_equal("nginx's complaints", nginx.log(), "");
}

void who_ends_first() {
  Server server({PoolText{}, pool("program", "program = [\"/bin/cat\"];")});
  for (int i = 0; i < 20; ++i) {
    Client client(server.address());
    client.echoes("hello\n");
    client.half_close();
    expect_equal("what comes after it", client.read_until_eof(), "");
    Client gone(server.address());
    gone.echoes("hello\n");
  }
  server.wait_for("/connections/served", 40);
  expect_equal("who needs no closer", server.find_process("preforkd: closer echo"), 0);
  for (size_t listen : {0, 1}) {
    Client client(server.address("program", listen));
    client.send("hello\n");
    client.half_close();
    expect_equal("what cat says", client.read_until_eof(), "hello\n");
  }
}

// --- what lingers holds nobody up ----------------------------------------------------------------

void the_worker_is_free() {
  Server server = answering();
  LingeringClient first(server);
  for (int i = 0; i < 5; ++i)
    expect_equal("others meanwhile", trouble(server.address(), body(kSmall)), "");
  first.expect_lingers();
  expect_equal("active", server.pool()["connections"]["active"], 0);
  expect_equal("workers", server.pool()["workers"]["total"], 1);
}

void who_sends_for_ever() {
  Server server = answering();
  Client client(server.address());
  size_t sent = 0;
  const Nanoseconds began = monotonic_now();
  for (ssize_t more; (more = send(client.fd(), body(kSmall).data(), kSmall, MSG_NOSIGNAL)) > 0;)
    sent += static_cast<size_t>(more);
  expect(sent >= size_t{64} << 20, "ended after " + std::to_string(sent) + " bytes");
  expect(monotonic_now() - began < 30 * kSecond, "it was ended for what it sent");
}

void nothing_is_left_open() {
  Server server(every_kind());
  auto all_open = [&] {
    std::map<std::string, size_t> open;
    for (const std::string& kind : kinds()) {
      open[kind + "'s closer"] = descriptors_of(closer(server, kind));
      if (kind != "program")
        open[kind + "'s worker"] = descriptors_of(server.workers(kind).at(0)["pid"]);
      open[kind + "'s supervisor"] = descriptors_of(server.supervisor(kind));
    }
    return open;
  };
  auto one_of_each = [&] {
    for (const std::string& kind : kinds())
      for (size_t listen : {0, 1})
        expect_equal(kind, trouble(server.address(kind, listen), body(kSmall)), "");
  };
  // 0 to 2, epoll, the ends of one pair or two.
  auto at_rest = [](const std::string& kind) { return size_t{kind == "program" ? 6u : 5u}; };
  one_of_each();
  const auto before = all_open();
  for (const std::string& kind : kinds())
    server.wait_until(kind + "'s closer has nothing", kPatience,
                      [&] { return descriptors_of(closer(server, kind)) == at_rest(kind); });
  for (int i = 0; i < 10; ++i) one_of_each();
  for (const std::string& kind : kinds())
    server.wait_until(kind + "'s closer has nothing", kPatience,
                      [&] { return descriptors_of(closer(server, kind)) == at_rest(kind); });
  for (const auto& [whose, open] : all_open())
    expect(open <= std::max(before.at(whose), size_t{6}), whose + " has " + std::to_string(open));
}

// --- programs ------------------------------------------------------------------------------------

// What a program leaves behind in its group keeps the connection, and may answer yet.
void a_program_that_leaves_another() {
  Server server({pool("echo", shell("exec 3<&0; (read x <&3; echo $x) & echo first"))});
  for (size_t listen : {0, 1}) {
    Client client(server.address("echo", listen));
    expect_equal("the program", client.read_line(), "first");
    server.wait_for("/connections/served", listen + 1);
    client.send("second\nunread");
    expect_equal("what it left", client.read_line(), "second");
    expect(client.is_ended(), "that ended, too");
  }
}

void a_program_that_fails() {
  Server server({pool("echo", shell("printf '" + std::string(kWritten) + "'; exit 3"))});
  expect_equal("it is answered", trouble(server.address(), body(kLarge)), "");
  server.wait_for("/connections/failed", 1);
}

// --- what code of a pool may have done to the socket ---------------------------------------------

void a_reset_that_is_wanted() {
  Server server({pool("echo", handler("resets"))});
  Client client(server.address());
  char byte;
  wait_until("it is reset", kPatience, [&] {
    const ssize_t got = recv(client.fd(), &byte, 1, MSG_DONTWAIT);
    if (got == 0) throw Failure("it is the end of a whole answer");
    return got < 0 && errno == ECONNRESET;
  });
}

// close() waits up to 60 s for who does not read; neither the worker nor the closer does.
void a_close_that_would_wait() {
  Server server({pool("echo", handler("lingers"), "min = 1; max = 1; min_spare = 0;")});
  Client idle(server.address());
  server.wait_for("/connections/served", 1);
  Client client(server.address());
  expect_equal("who comes next", client.read_bytes(sizeof kAnswer - 1), kAnswer);
  client.send(body(kSmall));
  client.close();
  Client last(server.address());
  last.send(body(kLarge));
  expect(last.read_until_eof().starts_with(kAnswer), "who comes after that");
}

void shut_down_already() {
  Server server({pool("echo", handler("shuts"), "min = 1; max = 1; min_spare = 0;")});
  for (int i = 0; i < 3; ++i)
    expect_equal("the answer", Client(server.address()).read_until_eof(), kAnswer);
}

// --- the process that does it --------------------------------------------------------------------

void the_closer_dies() {
  Server server = answering();
  LingeringClient first(server);
  const pid_t before = closer(server);
  server.wait_until("it has the connection", kPatience,
                    [&] { return descriptors_of(before) == kOwnDescriptors + 1; });
  kill(before, SIGKILL);
  server.wait_until("what it had is closed", kPatience, [&] { return first.is_cut_off(); });
  LingeringClient second(server);
  second.expect_lingers();
  expect(closer(server) > 0 && closer(server) != before, "there is another one");
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void the_closer_is_stopped() {
  Server server = answering();
  LingeringClient first(server);
  const pid_t before = closer(server);
  kill(before, SIGSTOP);
  server.wait_until("it is killed", kPatience, [&] { return !is_running(before); });
  LingeringClient second(server);
  second.expect_lingers();
}

void the_supervisor_dies() {
  Server server = answering();
  LingeringClient client(server);
  const pid_t before = closer(server), supervisor = server.supervisor();
  kill(supervisor, SIGKILL);
  server.wait_until("there is another one", kPatience, [&] {
    return server.find_process("preforkd: supervisor echo") > 0 &&
           server.supervisor() != supervisor;
  });
  expect(is_running(before), "the closer has something to do yet");
  client.expect_lingers();
  expect_equal("others are served", trouble(server.address(), body(kLarge)), "");
  client.client.close();
  server.wait_until("it ends", kPatience, [&] { return !is_running(before); });
  server.wait_for("/lifetime/crashed", 0);
}

void a_recycle() {
  Server server = answering();
  LingeringClient client(server);
  const pid_t before = closer(server);
  expect_equal("recycle", server.ctl({"recycle", "echo"}).code, 0);
  client.expect_lingers();
  expect(is_running(before), "it lingers");
  client.client.close();
  server.wait_until("the old closer ends", kPatience, [&] { return !is_running(before); });
  server.wait_for_log("generation 1 has ended");
}

// The supervisor waits for what is being closed, and goes last.
void a_drain() {
  Server server = answering();
  LingeringClient client(server);
  const pid_t lingers = closer(server), supervisor = server.supervisor();
  expect_equal("drain", server.ctl({"drain", "echo"}).code, 0);
  server.wait_until("the supervisor ends", kPatience, [&] { return !is_running(supervisor); });
  expect(!is_running(lingers), "the closer has ended before");
  server.wait_for("/state", "stopped");
}

// A stop waits 1 s for who is silent, and not at all if there is nobody; one at once waits for nobody.
double time_to_stop(Server& server, std::initializer_list<int> signals) {
  const Nanoseconds began = monotonic_now();
  for (int each : signals) server.signal(each);
  expect_equal("exit", server.wait_exit(), 0);
  return to_seconds(monotonic_now() - began);
}

void a_stop() {
  Server server = answering();
  LingeringClient client(server);
  const double took = time_to_stop(server, {SIGTERM});
  expect(took > 0.5 && took < 6, "it took " + std::to_string(took) + " s");
  wait_until("its connection is closed", kPatience, [&] { return client.is_cut_off(); });
}

void a_stop_with_nobody() {
  Server server = answering();
  { const LingeringClient gone(server); }
  server.wait_until("it has nothing", kPatience,
                    [&] { return descriptors_of(closer(server)) == kOwnDescriptors; });
  const double took = time_to_stop(server, {SIGTERM});
  expect(took < 0.9, "it took " + std::to_string(took) + " s");
}

// --- who is turned away --------------------------------------------------------------------------

void who_is_turned_away() {
  PoolText busy{.serves = unruly(), .workers = "min = 1; max = 1; min_spare = 0;"};
  busy.more = "saturation = { queue = 0; message = \"busy\\n\"; };";
  Server server({busy});
  Client first(server.address());
  pid_serving(first);
  server.wait_for("/workers/busy", 1);
  for (int i = 0; i < 5; ++i)
    expect_equal("turned away", trouble(server.address(), body(kLarge), "busy\n"), "");
}

}  // namespace

Suite ends_suite() {
  return {"ends",
          {{"a body that is not read", a_body_that_is_not_read},
           {"behind nginx", behind_nginx},
           {"who ends first", who_ends_first},
           {"the worker is free", the_worker_is_free},
           {"who sends for ever", who_sends_for_ever},
           {"nothing is left open", nothing_is_left_open},
           {"a program that leaves another", a_program_that_leaves_another},
           {"a program that fails", a_program_that_fails},
           {"a reset that is wanted", a_reset_that_is_wanted},
           {"a close that would wait", a_close_that_would_wait},
           {"shut down already", shut_down_already},
           {"the closer dies", the_closer_dies},
           {"the closer is stopped", the_closer_is_stopped},
           {"the supervisor dies", the_supervisor_dies},
           {"a recycle", a_recycle},
           {"a drain", a_drain},
           {"a stop", a_stop},
           {"a stop with nobody", a_stop_with_nobody},
           {"who is turned away", who_is_turned_away}}};
}

}  // namespace preforkd::system_test
