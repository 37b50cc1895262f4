// What a pool's sockets and processes are given: TCP options, folder, environment, priority, limits; at the
// start, by a reload, and what happens where they cannot be had.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>
#include <sstream>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

PoolText surroundings(const std::string& more = "", const std::string& workers = "") {
  return {.serves = "handler = \"@HANDLERS@/surroundings.so\";", .workers = workers, .more = more};
}

std::string ask(Client& client, const std::string& question) {
  client.send(question + "\n");
  return client.read_line();
}

std::string ask(Server& server, const std::string& question) {
  Client client(server.address());
  return ask(client, question);
}

void expect_reloaded(Server& server, const PoolText& pool,
                     std::source_location where = std::source_location::current()) {
  server.write_config(config_of({pool}));
  Outcome reload = server.ctl({"reload"});
  expect_equal("exit code of reload: " + reload.err, reload.code, 0, where);
}

void expect_refused(Server& server, const PoolText& pool, const std::string& reason,
                    std::source_location where = std::source_location::current()) {
  const Json before = server.pool();
  server.write_config(config_of({pool}));
  Answer answer = server.request("POST", "/v1/reload");
  expect_equal("status of reload", answer.status, 409, where);
  expect_contains("its reason", answer.json()["error"], reason, where);
  expect(!ask(server, "pid").empty(), "the old one goes on", where);
  expect_equal("generation", server.pool()["generation"], before["generation"], where);
  expect_equal("state", server.pool()["state"], "running", where);
}

void set_on(int fd, int level, int name) {
  const int on = 1;
  expect_equal("setsockopt", setsockopt(fd, level, name, &on, sizeof on), 0);
}

// --- sockets -------------------------------------------------------------------------------------

void nodelay_and_keepalive() {
  PoolText plain = surroundings(),
           with = surroundings("tcp = { nodelay = true; keepalive = 77; };");
  for (PoolText* pool : {&plain, &with})
    pool->listen = R"("127.0.0.1:0", "[::1]:0", "unix:@DIR@/sock")";
  Server server({plain});
  const std::string v4 = server.address("echo", 0), v6 = server.address("echo", 1);
  auto are = [&](const std::string& nodelay, const std::string& keepalive) {
    for (const std::string& address : {v4, v6}) {
      Client client(address);
      expect_equal("nodelay of " + address, ask(client, "nodelay"), nodelay);
      expect_equal("keepalive of " + address, ask(client, "keepalive"), keepalive);
    }
    Client local(server.address("echo", 2));
    expect(!ask(local, "pid").empty(), "the Unix socket is served");
  };
  are("0", "off");
  Client early(v4);
  expect_equal("nodelay of who came before", ask(early, "nodelay"), "0");
  // Over a reload the sockets stay, and so do the processes.
  expect_reloaded(server, with);
  are("1", "77");
  expect_equal("nodelay of who came before", ask(early, "nodelay"), "0");
  expect_equal("generation", server.pool()["generation"], 1);
  expect_reloaded(server, plain);
  are("0", "off");
  // With a change that takes other processes, too.
  with.more += " nice = 1;";
  expect_reloaded(server, with);
  are("1", "77");
  expect_equal("generation", server.pool()["generation"], 2);
  expect_equal("address", server.address("echo", 0), v4);
}

// The only worker would be busy with who says nothing, and nobody else would be served.
void defer_accept() {
  PoolText plain{.workers = "min = 1; max = 1; min_spare = 0;"}, with = plain;
  with.more = "tcp = { defer_accept = 60; };";
  Server server({with});
  const std::string address = server.address();
  auto silent_ones_wait = [&] {
    Client silent(address);
    {
      Client other(address);
      expect(other.echoes("hello\n"), "who speaks is served");
      expect_equal("active", server.pool()["connections"]["active"], 1);
    }
    expect(silent.echoes("now\n"), "and so is who speaks later");
  };
  silent_ones_wait();
  expect_reloaded(server, plain);
  {
    Client silent(address);
    server.wait_for("/connections/active", 1);
  }
  server.wait_for("/connections/active", 0);
  expect_reloaded(server, with);
  silent_ones_wait();
  expect_equal("generation", server.pool()["generation"], 1);
}

void fast_open() {
  Server server({surroundings("tcp = { fast_open = 5; };")});
  expect_equal("fast_open", ask(server, "fast_open"), "5");
  // Data with the SYN, where the kernel does that for servers (else it comes after it).
  Client usual(server.address());
  UniqueFd quick(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(server.port()));
  expect_equal("sent",
               sendto(quick.get(), "pid\n", 4, MSG_FASTOPEN | MSG_NOSIGNAL,
                      reinterpret_cast<sockaddr*>(&to), sizeof to),
               4);
  char answer[32];
  expect(recv(quick.get(), answer, sizeof answer, 0) > 1, "an answer to what came with the SYN");
  expect_reloaded(server, surroundings("tcp = { fast_open = 0; };"));
  expect_equal("fast_open after a reload", ask(usual, "fast_open"), "0");
}

void two_on_one_port() {
  const std::string workers = "min = 1; max = 1; min_spare = 0;",
                    share = "tcp = { reuse_port = true; };";
  PoolText pool = surroundings(share, workers);
  Server first({pool});
  expect_equal("reuse_port", ask(first, "reuse_port"), "1");
  pool.listen = "\"" + first.address() + "\"";
  {
    Server second({pool});
    std::set<std::string> pids;
    // By a hash of the client's port: 200 times the same one is beyond luck.
    for (int i = 0; i < 200 && pids.size() < 2; ++i) pids.insert(ask(first, "pid"));
    expect_equal("who serves", pids.size(), 2u);
    PoolText greedy = surroundings("", workers);
    greedy.listen = pool.listen;
    Server third({greedy}, {.wait_until_ready = false});
    third.wait_for_log("bind " + first.address() + ": Address already in use");
  }
  const std::string pid = ask(first, "pid");
  for (int i = 0; i < 10; ++i) expect_equal("who is left", ask(first, "pid"), pid);
  // It cannot change while the socket stays. Another socket is another matter.
  expect_refused(first, surroundings("\ntcp = { reuse_port = false; };", workers),
                 "preforkd.conf:5: tcp.reuse_port: " + first.address() + " is bound already");
  pool = surroundings("", workers);
  pool.listen = "\"[::1]:0\"";
  expect_reloaded(first, pool);
  expect_equal("reuse_port of another", ask(first, "reuse_port"), "0");
}

// What its unit says of a socket that systemd passes is true until this file says otherwise; then over an
// upgrade in place, too.
void inherited_from_systemd() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  expect_equal("bind", bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  set_on(fd.get(), IPPROTO_TCP, TCP_NODELAY);
  expect_equal("listen", listen(fd.get(), 16), 0);
  auto pool = [](const std::string& tcp) {
    PoolText text = surroundings("tcp = { " + tcp + " };");
    text.listen = "\"systemd:web\"";
    return text;
  };
  Server server({pool("keepalive = 30;")}, {.inherited = {fd.get()}, .inherited_names = "web"});
  expect_equal("nodelay", ask(server, "nodelay"), "1");
  expect_equal("keepalive", ask(server, "keepalive"), "30");
  expect_reloaded(server, pool("nodelay = true; reuse_port = true;"));
  expect_equal("nodelay", ask(server, "nodelay"), "1");
  expect_equal("keepalive", ask(server, "keepalive"), "off");
  expect_equal("reuse_port is systemd's matter", ask(server, "reuse_port"), "0");
  server.signal(SIGUSR2);
  server.wait_for_log("upgraded from");
  expect_reloaded(server, pool(""));
  expect_equal("nodelay is switched off", ask(server, "nodelay"), "0");
}

// --- processes -----------------------------------------------------------------------------------

std::string own_nice(int more) {
  return std::to_string(std::min(getpriority(PRIO_PROCESS, 0) + more, 19));
}

void a_program() {
  TestFolder folder;
  Server server({PoolText{.serves =
                              R"(program = [ "/bin/sh", "-c",
             "pwd; ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -v; nice; echo $GREETING; echo $PROTO; echo $HOME" ];)",
                          .more = "working_directory = \"" + folder.path() + R"("; nice = 3;
        environment = { GREETING = "hello  world"; HOME = "/elsewhere"; };
        rlimits = { nofile = 77; core = 0; as = "unlimited"; };)"}});
  expect_equal("what it sees", Client(server.address()).read_until_eof(),
               folder.path() + "\n77\n77\n0\nunlimited\n" + own_nice(3) +
                   "\nhello world\nTCP\n/elsewhere\n");
}

void a_handler() {
  TestFolder folder;
  Server server({surroundings("working_directory = \"" + folder.path() + R"("; nice = 2;
      environment = { GREETING = "hello"; LONGER = "a b\tc"; };
      rlimits = { nofile = 99; core = -1; cpu = 1000; };)")});
  {
    Client client(server.address());
    expect_equal("cwd", ask(client, "cwd"), folder.path());
    expect_equal("env", ask(client, "env GREETING"), "hello");
    expect_equal("env", ask(client, "env LONGER"), "a b\tc");
    expect_equal("nice", ask(client, "nice"), own_nice(2));
    expect_equal("nofile", ask(client, "limit nofile"), "99 99");
    expect_equal("core", ask(client, "limit core"), "unlimited unlimited");
    expect_equal("cpu", ask(client, "limit cpu"), "1000 1000");
  }
  // A reload changes all of them, and takes away what is not written any more.
  expect_reloaded(server, surroundings(R"(working_directory = "/"; nice = 4;
      environment = { GREETING = "bye"; }; rlimits = { nofile = 111; };)"));
  Client client(server.address());
  expect_equal("generation", server.pool()["generation"], 2);
  expect_equal("cwd", ask(client, "cwd"), "/");
  expect_equal("env", ask(client, "env GREETING"), "bye");
  expect_equal("env", ask(client, "env LONGER"), "(not set)");
  expect_equal("nice", ask(client, "nice"), own_nice(4));
  expect_equal("nofile", ask(client, "limit nofile"), "111 111");
  expect(ask(client, "limit cpu") != "1000 1000", "cpu is as it was");
  // And a supervisor that dies comes back with all of it.
  server.wait_for_one_generation();
  kill(server.supervisor(), SIGKILL);
  server.wait_until("another supervisor serves", kPatience, [&] {
    return server.pool()["state"] == "running" && server.pool()["generation"] == 3;
  });
  Client next(server.address());
  expect_equal("env", ask(next, "env GREETING"), "bye");
  expect_equal("nofile", ask(next, "limit nofile"), "111 111");
}

// A handler's path is meant from where the daemon is.
void a_relative_handler() {
  PoolText pool{.serves = "handler = \"./surroundings.so\";", .more = "working_directory = \"/\";"};
  const std::string handlers = built("tests/system/handlers");
  Server server({pool}, {.in_child = [&] {
                  if (chdir(handlers.c_str()) < 0) _exit(126);
                }});
  expect_equal("cwd", ask(server, "cwd"), "/");
}

// A worker has few descriptors, and whoever keeps a hundred of them has enough.
void few_descriptors() {
  constexpr unsigned kClients = 100;
  Server server(
      {surroundings("rlimits = { nofile = 16; };", "min = 4; max = 100; max_spare = 100;")});
  std::vector<Client> clients;
  for (unsigned i = 0; i < kClients; ++i) clients.emplace_back(server.address());
  for (Client& client : clients) expect_equal("nofile", ask(client, "limit nofile"), "16 16");
  server.wait_for("/connections/active", kClients);
  auto limit_of = [](pid_t pid) {
    const std::string limits = file_text("/proc/" + std::to_string(pid) + "/limits");
    const size_t at = limits.find("Max open files");
    if (at == limits.npos) throw Failure("no limits of " + std::to_string(pid));
    return limits.substr(at, limits.find('\n', at) - at);
  };
  expect_equal("the supervisor's", limit_of(server.supervisor()), limit_of(server.pid()));
  clients.clear();
  expect_exact_figures(server, "echo", kClients);
  // Too few to accept anybody; and just enough.
  expect_refused(server, surroundings("rlimits = { nofile = 4; };"),
                 "limit nofile to 4: Too many open files");
  if (are_sanitized()) return;  // what watches over them needs some of its own
  expect_reloaded(server, surroundings("rlimits = { nofile = 5; };"));
  expect_equal("nofile", ask(server, "limit nofile"), "5 5");
}

// Root in a container may lack the right (CAP_SYS_RESOURCE).
bool may_raise_limits() {
  constexpr uint64_t kSysResource = uint64_t{1} << 24;
  const std::string status = file_text("/proc/self/status"), name = "CapEff:";
  return std::stoull(status.substr(status.find(name) + name.size()), nullptr, 16) & kSysResource;
}

// Above what the daemon itself may use: for root alone.
void more_than_the_daemon() {
  PoolText pool = surroundings("rlimits = { nofile = 2000; };");
  auto start = [](void (*become)()) {
    return [become] {
      limit_descriptors(1024);
      become();
    };
  };
  if (may_raise_limits()) {
    Server server({pool}, {.in_child = start([] {})});
    expect_equal("nofile", ask(server, "limit nofile"), "2000 2000");
  }
  TestFolder folder;
  const std::string runtime = folder.file("run");
  expect_equal("mkdir", run({"mkdir", runtime}).code, 0);
  give_to_nobody(runtime);
  Server server({pool}, {.wait_until_ready = false,
                         .arguments = {"--runtime-dir", runtime},
                         .in_child = start(become_nobody)});
  expect_refused_start(server, 78,
                       ": rlimits.nofile: limit nofile to 2000: Operation not permitted");
}

void what_cannot_be_had() {
  TestFolder folder;
  const std::string missing = folder.file("missing"), closed = folder.file("closed"),
                    file = folder.write("file", "");
  expect_equal("mkdir", run({"mkdir", "-m", "700", closed}).code, 0);
  auto in = [](const std::string& path) {
    return surroundings("\nworking_directory = \"" + path + "\";");
  };
  Server server({surroundings("working_directory = \"" + folder.path() + "\";")});
  expect_refused(
      server, in(missing),
      "preforkd.conf:4: working_directory: change to " + missing + ": No such file or directory");
  expect_refused(server, in(file), "change to " + file + ": Not a directory");
  if (is_root())  // as the pool's user, who is not root
    expect_refused(server, in(closed), "change to " + closed + ": Permission denied");
  expect_refused(server, surroundings("rlimits = { nofile = \"unlimited\"; };"),
                 "limit nofile to unlimited: Operation not permitted");
  expect_equal("cwd", ask(server, "cwd"), folder.path());
  expect_equal("reloads", server.status()["reloads"], 0);
  {
    Server not_started({in(missing)}, {.wait_until_ready = false});
    expect_refused_start(not_started, 78,
                         "preforkd.conf:4: working_directory: change to " + missing +
                             ": No such file or directory\n");
  }
  expect_reloaded(server, in(is_root() ? "/" : closed));
}

// Priority above the daemon's: for root alone.
void a_higher_priority() {
  PoolText pool = surroundings("nice = -2;");
  if (is_root()) {
    Server server({pool});
    expect_equal("nice", ask(server, "nice"), own_nice(-2));
  }
  TestFolder folder;
  const std::string runtime = folder.file("run");
  expect_equal("mkdir", run({"mkdir", runtime}).code, 0);
  give_to_nobody(runtime);
  Server server({pool}, {.wait_until_ready = false,
                         .arguments = {"--runtime-dir", runtime},
                         .in_child = become_nobody});
  expect_refused_start(server, 78, ": nice: change nice by -2: Permission denied");
}

int score_of(pid_t pid) {
  return std::atoi(file_text("/proc/" + std::to_string(pid) + "/oom_score_adj").c_str());
}

// Root may be without the capability for it, in a container.
bool may_lower(int score) {
  const pid_t child = fork();
  if (child == 0) {
    const UniqueFd file(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    const std::string text = std::to_string(score);
    _exit(write(file.get(), text.data(), text.size()) > 0 ? 0 : 1);
  }
  return exit_code(wait_for_child(child, kPatience)) == 0;
}

// Of workers and what they become: their supervisor is not to be killed in their place, and never sooner than they.
void out_of_memory_scores() {
  const int own = score_of(getpid());
  const auto with = [](int score) {
    return std::vector{
        PoolText{.workers = "min = 1; max = 2;",
                 .more = "oom_score_adjust = " + std::to_string(score) + ";"},
        PoolText{.name = "cat",
                 .serves = R"(program = [ "/bin/cat", "/proc/self/oom_score_adj" ];)",
                 .workers = "min = 1; max = 2;",
                 .more = "oom_score_adjust = " + std::to_string(score) + ";"}};
  };
  const int higher = std::min(own + 300, 1000);
  Server server(with(higher));
  expect_equal("a worker's", score_of(server.worker_pids().at(0)), higher);
  expect_equal("its supervisor's", score_of(server.supervisor()), own);
  expect_equal("a program's", Client(server.address("cat")).read_until_eof(),
               std::to_string(higher) + "\n");
  const int lower = own - 100;
  server.write_config(config_of(with(lower)));
  const Answer reloaded = server.request("POST", "/v1/reload");
  if (!may_lower(lower)) {
    expect_contains(
        "the refusal", reloaded.body,
        "oom_score_adjust: set oom_score_adj to " + std::to_string(lower) + ": Permission denied");
    return;
  }
  expect_equal("reload: " + reloaded.body, reloaded.status, 200);
  server.wait_for_one_generation();
  expect_equal("a worker's", score_of(server.worker_pids().at(0)), lower);
  expect_equal("its supervisor's", score_of(server.supervisor()), lower);
  expect_equal("the daemon's", score_of(server.pid()), own);

  TestFolder folder;
  const std::string runtime = folder.file("run");
  expect_equal("mkdir", run({"mkdir", runtime}).code, 0);
  give_to_nobody(runtime);
  Server nobodys({with(lower).at(0)}, {.wait_until_ready = false,
                                       .arguments = {"--runtime-dir", runtime},
                                       .in_child = become_nobody});
  expect_refused_start(
      nobodys, 78,
      ": oom_score_adjust: set oom_score_adj to " + std::to_string(lower) + ": Permission denied");
}

}  // namespace

Suite options_suite() {
  return {"options",
          {{"nodelay and keepalive", nodelay_and_keepalive},
           {"defer_accept", defer_accept},
           {"fast_open", fast_open},
           {"two on one port", two_on_one_port},
           {"inherited from systemd", inherited_from_systemd},
           {"a program", a_program},
           {"a handler", a_handler},
           {"a relative handler", a_relative_handler},
           {"few descriptors", few_descriptors},
           {"more than the daemon", more_than_the_daemon},
           {"what cannot be had", what_cannot_be_had},
           {"a higher priority", a_higher_priority},
           {"out of memory scores", out_of_memory_scores}}};
}

}  // namespace preforkd::system_test
