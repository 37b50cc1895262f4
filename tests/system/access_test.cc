// Who may connect: networks, connections from one source, PROXY headers; what real proxies say of a client.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <memory>

#include "base/error.h"
#include "tests/system/conditions.h"
#include "tests/system/diary.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

using namespace std::string_literals;

// The peer that preforkd shows for the worker that serves `client`.
std::string shown_peer(Server& server, Client& client) {
  const pid_t pid = std::stoi(ask(client, "pid"));
  for (const Json& worker : server.workers())
    if (worker["pid"] == pid) return worker["peer"];
  throw Failure("no worker " + std::to_string(pid));
}

void networks() {
  Server server({PoolText{.listen = "\"127.0.0.1:0\", \"[::1]:0\"",
                          .serves = kDiary,
                          .more = "access = { allow = [ \"127.0.0.0/8\", \"127.0.5.6\" ]; "
                                  "deny = [ \"127.0.5.0/24\" ]; };"}});
  for (const char* good : {"127.0.0.9", "127.0.5.6", "127.0.6.5"}) {
    Client client = from(good, server.address());
    expect_equal(std::string(good) + " is let in", ask(client, "local"), server.address());
  }
  expect(from("127.0.5.7", server.address()).is_ended(), "127.0.5.7 is not");
  expect_rejected(server, "denied", 1);
  server.wait_for_log("refused 127.0.5.7:");
  expect(Client(server.address("echo", 1)).is_ended(), "nor is ::1, which nobody allowed");
  expect_rejected(server, "denied", 2);
  server.wait_for("/connections/served", 3);
  expect_equal("accepted", server.pool()["connections"]["accepted"], 3);
  expect_equal("rejected", server.pool()["connections"]["rejected"], 2);
  expect_well(server);
  Answer metrics = server.request("GET", "/metrics");
  expect(
      metrics.body.find("preforkd_connections_rejected_total{pool=\"echo\",reason=\"denied\"} 2") !=
          std::string::npos,
      "metrics tell it by reason");
}

// A list is taken in by a reload.
void reloaded() {
  PoolText text{.serves = kDiary};
  Server server({text});
  text.listen = "\"" + server.address() + "\"";
  text.more = "access = { deny = [ \"127.0.0.1\" ]; };";
  server.write_config(config_of({text}));
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  expect(Client(server.address()).is_ended(), "127.0.0.1 is refused now");
  Client other = from("127.0.0.2", server.address());
  expect(!ask(other, "pid").empty(), "127.0.0.2 is not");
}

// --- as many networks as there may be

// 127.16.0.0/15, in pairs: the first of each is let in, the second is not.
std::string of_pair(unsigned i, unsigned second) {
  return "127." + std::to_string(16 + (i >> 15)) + "." + std::to_string(i >> 7 & 255) + "." +
         std::to_string(2 * (i & 127) + second);
}
constexpr unsigned kMany = 65536;
const std::string kIn = of_pair(kMany - 1, 0), kOut = of_pair(kMany - 1, 1);

// A line for each, as a list that somebody else makes has them.
template <class Entry>
std::string many(const std::string& key, Entry entry) {
  std::string text = key + " = [\n";
  for (unsigned i = 0; i < kMany; ++i) text += (i ? ",\n\"" : "\"") + entry(i) + "\"";
  return text + "\n];\n";
}
// `last` is the last one that is denied.
std::string many_lists(const std::string& last = kOut) {
  return "access = {\n" + many("allow", [](unsigned i) { return of_pair(i, 0) + "/31"; }) +
         many("deny", [&](unsigned i) { return i == kMany - 1 ? last : of_pair(i, 1); }) + "};\n";
}

void expect_in(Server& server, const std::string& source, const std::string& greeting = "") {
  Client client = from(source, server.address());
  client.send(greeting + "hello\n");
  expect(!client.read_line().empty(), source + " is let in");
}
void expect_out(Server& server, const std::string& source, const std::string& greeting = "") {
  Client client = from(source, server.address());
  client.send(greeting);
  expect(client.is_ended(), source + " is not let in");
}
void expect_first_and_last(Server& server) {
  for (const unsigned i : {0u, kMany / 2, kMany - 1}) {
    expect_in(server, of_pair(i, 0));
    expect_out(server, of_pair(i, 1));
  }
  for (const char* nobodys : {"127.15.255.254", "127.18.0.0"}) expect_out(server, nobodys);
  expect_rejected(server, "denied", 5);
}

// In seconds. With sanitizers, and others beside it, reading them takes its time.
constexpr double kManyAreRead = 60;

void many_networks_and_a_handler() {
  PoolText text{.more = many_lists()};
  Server server({text}, {.wait_until_ready = false});
  server.wait_until_ready(kManyAreRead);
  expect_first_and_last(server);
  text.listen = "\"" + server.address() + "\"";
  server.write_config(config_of({text}));
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  server.wait_for_one_generation();
  const pid_t before = server.supervisor();
  expect_equal("reload as it is", server.ctl({"reload"}).code, 0);
  expect_equal("its supervisor", server.supervisor(), before);
  text.more = many_lists(kIn);  // one network is another
  server.write_config(config_of({text}));
  expect_equal("reload", server.ctl({"reload"}).code, 0);
  expect_in(server, kOut);
  expect_out(server, kIn);
}

void many_networks_and_a_program() {
  Server server({PoolText{.serves = "program = [ \"/bin/cat\" ];", .more = many_lists()}},
                {.wait_until_ready = false});
  server.wait_until_ready(kManyAreRead);
  expect_first_and_last(server);
}

// Its workers have the lists from a file, trusted proxies too.
void many_networks_and_a_serving_program() {
  if (are_sanitized()) return skip("no interpreter with sanitizers");
  const TestFolder scripts;
  const std::string script = scripts.write("echo.py", R"(import preforkd
preforkd.serve(lambda connection: connection.sendall(connection.recv(100)))
)");
  const std::string serves = "serve = [ \"python3\", \"" + script + "\" ];";
  {
    Server server({PoolText{.serves = serves, .more = many_lists()}});
    expect_first_and_last(server);
  }
  Server server({PoolText{.serves = serves,
                          .more = "proxy_protocol = true;\n" +
                                  many("trusted", [](unsigned i) { return of_pair(i, 0); }) +
                                  "access = { deny = [ \"192.0.2.9\" ]; };"}});
  expect_in(server, kIn, "PROXY TCP4 192.0.2.1 198.51.100.2 4242 443\r\n");
  expect_out(server, kIn, "PROXY TCP4 192.0.2.9 198.51.100.2 4242 443\r\n");
  expect_rejected(server, "denied", 1);
  expect_out(server, kOut, "PROXY TCP4 192.0.2.1 198.51.100.2 4242 443\r\n");
  expect_rejected(server, "untrusted", 1);
}

void per_source() {
  Server server(
      {PoolText{.serves = kDiary, .workers = "min = 8; max = 16;", .more = "per_source = 3;"}});
  std::vector<Client> held;
  for (int i = 0; i < 3; ++i) held.push_back(from("127.0.0.2", server.address()));
  for (Client& client : held) ask(client, "pid");
  expect(from("127.0.0.2", server.address()).is_ended(), "a fourth is refused");
  expect_rejected(server, "per_source", 1);
  server.wait_for_log("it has 3 connections already");
  Client other = from("127.0.0.3", server.address());
  ask(other, "pid");
  // A place is free as soon as a client has seen its connection end, and when its worker was killed.
  held.back().half_close();
  held.back().read_until_eof();
  held.back() = from("127.0.0.2", server.address());
  const pid_t victim = std::stoi(ask(held.back(), "pid"));
  kill(victim, SIGKILL);
  expect(held.back().is_ended(), "its connection is gone");
  server.wait_for("/lifetime/crashed", 1);
  held.back() = from("127.0.0.2", server.address());
  expect(!ask(held.back(), "pid").empty(), "and there is room again");
}

// A burst from one address: as many are served as may be, and no more.
void a_burst_from_one_source() {
  Server server(
      {PoolText{.serves = kDiary, .workers = "min = 16; max = 32;", .more = "per_source = 5;"}});
  std::vector<Client> burst;
  for (int i = 0; i < 20; ++i) burst.push_back(from("127.0.0.2", server.address()));
  server.wait_until("all have their answer", kPatience, [&] {
    Json connections = server.pool()["connections"];
    return connections["active"] == 5 && connections["rejected"] == 15;
  });
}

const std::string kBehindProxy = "proxy_protocol = true; trusted = [ \"127.0.0.0/24\" ];";

std::string version_2(const std::string& rest, char command = '\x21', char family = '\x11') {
  return "\r\n\r\n\0\r\nQUIT\n"s + command + family + static_cast<char>(rest.size() >> 8) +
         static_cast<char>(rest.size() & 0xff) + rest;
}
const std::string kFromTo = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x10\x92\x01\xbb"s;  // 192.0.2.1:4242

void proxy_headers() {
  Server server(
      {PoolText{.serves = kDiary,
                .more = kBehindProxy + "access = { deny = [ \"192.0.2.9\" ]; }; per_source = 1;"}});
  Client one(server.address());
  one.send("PROXY TCP4 192.0.2.1 198.51.100.2 4242 443\r\n");
  expect_equal("local", ask(one, "local"), "198.51.100.2:443");
  expect_equal("peer", shown_peer(server, one), "192.0.2.1:4242");
  // Access and sources are the client's, not the proxy's.
  Client denied(server.address()), second(server.address());
  denied.send("PROXY TCP4 192.0.2.9 198.51.100.2 4242 443\r\nlocal\n");
  expect(denied.is_ended(), "a denied client of the proxy");
  expect_rejected(server, "denied", 1);
  second.send(version_2(kFromTo + "\x20\x00\x05hallo"s));
  expect(second.is_ended(), "a second one of that source");
  expect_rejected(server, "per_source", 1);
  one.half_close();
  one.read_until_eof();

  Client two(server.address());
  two.send(version_2(kFromTo + "\x20\x00\x05hallo"s));  // with an extension
  expect_equal("version 2: local", ask(two, "local"), "198.51.100.2:443");
  expect_equal("version 2: peer", shown_peer(server, two), "192.0.2.1:4242");
  // In pieces, with what follows in the same segment as the last one.
  const std::string pieces = "PROXY TCP4 192.0.2.3 198.51.100.2 4242 443\r\nlocal\n";
  Client slow(server.address());
  for (char byte : pieces) slow.send({&byte, 1});
  expect_equal("in pieces", slow.read_line(), "198.51.100.2:443");
  Client health(server.address());
  health.send(version_2("", '\x20', '\0'));
  expect_equal("LOCAL: its own", ask(health, "local"), server.address());
  health.close();
  server.wait_for("/connections/active", 2);
  Client unknown(server.address());
  unknown.send("PROXY UNKNOWN\r\n");
  expect_equal("UNKNOWN: its own", ask(unknown, "local"), server.address());
}

// The proxy's own connection is no client's: lists of clients, and how many of one may come, are not about it.
void a_proxys_own_connection() {
  Server server({PoolText{
      .serves = kDiary,
      .more = kBehindProxy + "access = { allow = [ \"192.0.2.0/24\" ]; }; per_source = 1;"}});
  std::vector<Client> checks;
  for (int i = 0; i < 3; ++i) {
    checks.emplace_back(server.address()).send(version_2("", '\x20', '\0'));
    expect_equal("LOCAL is let in", ask(checks.back(), "local"), server.address());
    expect(shown_peer(server, checks.back()).starts_with("127.0.0.1:"), "with its own address");
  }
  Client unknown(server.address()), unspecified(server.address());
  unknown.send("PROXY UNKNOWN\r\n");
  expect(unknown.is_ended(), "a client of whom the proxy knows nothing is not");
  expect_rejected(server, "denied", 1);
  unspecified.send(version_2("", '\x21', '\0'));
  expect(unspecified.is_ended(), "nor is one that comes with UNSPEC");
  expect_rejected(server, "denied", 2);
  checks.clear();
  server.wait_for("/connections/served", 3);
  expect_equal("accepted", server.pool()["connections"]["accepted"], 3);
  expect_equal("rejected", server.pool()["connections"]["rejected"], 2);
}

void bad_headers() {
  Server server({PoolText{.serves = kDiary, .more = kBehindProxy}});
  const struct {
    std::string bytes, why;
    bool shut;
  } kRows[] = {
      {"PROXY TCP4 192.0.2.1 198.51", "it ended before it was whole", true},
      {"PROXY ", "it ended before it was whole", true},
      {"", "it ended before it was whole", true},
      {version_2(kFromTo).substr(0, 20), "it ended before it was whole", true},
      {"GET / HTTP/1.1\r\n\r\n", "it does not begin with one", false},
      {"PROXY TCP4 " + std::string(200, '1'), "no end of line within 107 bytes", false},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 4242 99999\r\n", "expected two ports", false},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 4242 443\nlocal\n", "a line feed by itself", false},
      {"PROXY TCP4 192.0.2.1\0.9 198.51.100.2 4242 443\r\n"s, "expected two addresses", false},
      {version_2(kFromTo, '\x21', '\x41'), "of no known address family", false},
      {version_2(kFromTo.substr(0, 11)), "too short for its addresses", false},
      {version_2(kFromTo, '\x31'), "expected version 1 or 2", false},
      {version_2(std::string(60000, 'x')), "longer than 16 KiB", false},
  };
  int count = 0;
  for (const auto& row : kRows) {
    Client client(server.address());
    client.send(row.bytes);
    if (row.shut) client.half_close();
    expect(client.is_ended(), "refused: " + row.why);
    expect_rejected(server, "proxy_header", ++count);
  }
  // (Each worker says a reason once in ten seconds.)
  server.wait_for_log("PROXY header: it ended before it was whole");
  expect(from("127.0.1.1", server.address()).is_ended(), "not a trusted one, whatever it says");
  Client forged = from("127.0.1.1", server.address());
  try {
    forged.send("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nlocal\n");
  } catch (const Failure&) {  // closed already
  }
  expect(forged.is_ended(), "nor one that says that it is");
  expect_rejected(server, "untrusted", 2);
  server.wait_for_log("not one of the trusted proxies");
  expect_well(server, "PROXY UNKNOWN\r\n");
}

// Whoever sends nothing holds a worker for 5 s and no longer; the pool grows meanwhile.
void silent_headers() {
  Server server({PoolText{
      .serves = kDiary, .workers = "min = 1; max = 8; min_spare = 1;", .more = kBehindProxy}});
  std::vector<Client> silent;
  for (int i = 0; i < 4; ++i) silent.emplace_back(server.address());
  server.wait_for("/workers/busy", 4);
  expect_well(server, "PROXY UNKNOWN\r\n");
  expect_rejected(server, "proxy_header", 4);
  server.wait_for_log("PROXY header: not whole within 5 s");
  for (Client& client : silent) expect(client.is_ended(), "it is closed");
  server.wait_for("/workers/busy", 0);
  expect_equal("accepted", server.pool()["connections"]["accepted"], 1);
}

// What a program per connection sees of it.
void environment() {
  Server server({PoolText{.serves = "program = [ \"/usr/bin/env\" ];", .more = kBehindProxy}});
  Client client(server.address());
  client.send("PROXY TCP6 2001:db8::1 2001:db8::2 4242 443\r\n");
  const std::string said = client.read_until_eof();
  for (const char* variable :
       {"PROTO=TCP\n", "TCPREMOTEIP=2001:db8::1\n", "TCPREMOTEPORT=4242\n",
        "TCPLOCALIP=2001:db8::2\n", "TCPLOCALPORT=443\n", "REMOTE_ADDR=2001:db8::1\n"})
    expect(said.find(variable) != std::string::npos, variable + (" in " + said));
}

// --- real proxies --------------------------------------------------------------------------------

// A file of ours, as a user would adapt it. (The tests run in the repository.)
std::string with(const std::string& path,
                 const std::vector<std::pair<std::string, std::string>>& changes) {
  std::string text = file_text(path);
  for (const auto& [from, to] : changes) {
    const size_t at = text.find(from);
    if (at == text.npos) throw Failure(path + " has no " + from);
    text.replace(at, from.size(), to);
  }
  return text;
}

int free_port() {
  Server probe({PoolText{}});
  return probe.port();
}

class Proxy {
 public:
  Proxy(const TestFolder& folder, const std::vector<std::string>& argv, const std::string& address)
      : log_(folder.file("proxy.log")), pid_(start(argv, log_)) {
    wait_until(argv[0] + " listens on " + address, kPatience, [&] {
      if (!is_running(pid_)) throw Failure(argv[0] + " has ended: " + file_text(log_));
      return Client::try_connect(address).has_value();
    });
  }
  // With its own workers, who outlive it by a moment and are ours then.
  ~Proxy() {
    const std::vector<pid_t> workers = children_of(pid_);
    kill(pid_, SIGTERM);
    wait_for_child(pid_, kPatience);
    for (pid_t worker : workers) {
      kill(worker, SIGTERM);
      wait_for_child(worker, kPatience);
    }
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

 private:
  static pid_t start(const std::vector<std::string>& argv, const std::string& log) {
    UniqueFd out(open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    return spawn({.argv = argv, .out = out.get(), .err = out.get()});
  }
  const std::string log_;
  const pid_t pid_;
};

void behind_haproxy(const std::string& send_proxy) {
  Server server({PoolText{.serves = kDiary, .more = kBehindProxy}});
  TestFolder folder;
  const std::string address = "127.0.0.1:" + std::to_string(free_port());
  const std::string config =
      folder.write("haproxy.cfg", with("doc/haproxy.cfg", {{"0.0.0.0:8007", address},
                                                           {"127.0.0.1:7007", server.address()},
                                                           {"send-proxy-v2", send_proxy}}));
  Proxy haproxy(folder, {"/usr/sbin/haproxy", "-db", "-f", config}, address);
  Client client = from("127.0.7.7", address);
  expect_equal("local", ask(client, "local"), address);
  expect_equal("peer", shown_peer(server, client), client.own_address());
}
void haproxy_version_1() { behind_haproxy("send-proxy"); }
void haproxy_version_2() { behind_haproxy("send-proxy-v2 check inter 200ms"); }

// TLS: hitch ends it, and says whose connection it was.
void hitch() {
  Server server({PoolText{.serves = kDiary, .more = kBehindProxy}});
  TestFolder folder;
  const std::string key = folder.file("key.pem"), certificate = folder.file("certificate.pem");
  Outcome made =
      run({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
           "-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate});
  expect_equal("openssl: " + made.err, made.code, 0);
  const int port = free_port();
  const std::string address = "127.0.0.1:" + std::to_string(port);
  const std::string both = folder.write("site.pem", file_text(key) + file_text(certificate));
  const std::string config = folder.write(
      "hitch.conf",
      with("doc/hitch.conf", {{"[0.0.0.0]:8443", "[127.0.0.1]:" + std::to_string(port)},
                              {":7007", ":" + std::to_string(server.port())},
                              {"/etc/hitch/site.pem", both},
                              {is_root() ? "" : "user = \"nobody\"", ""}}));
  Proxy hitch(folder, {"/usr/sbin/hitch", "--config", config}, address);
  // A client that speaks TLS, asks, and says where it comes from.
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) throw SysError("make pipe", errno);
  UniqueFd in_write(in[1]), out_read(out[0]);
  const pid_t tls =
      spawn({.argv = {"openssl", "s_client", "-quiet", "-verify_quiet", "-connect", address},
             .in = UniqueFd(in[0]).get(),
             .out = UniqueFd(out[1]).get()});
  const std::string orders = "note over TLS\nlocal\n";
  expect_equal("orders", write(in_write.get(), orders.data(), orders.size()),
               static_cast<ssize_t>(orders.size()));
  server.wait_until("a worker serves it", kPatience, [&] {
    for (const Json& worker : server.workers())
      if (worker["note"] == "over TLS") {
        const std::string peer = worker["peer"];
        expect(peer.starts_with("127.0.0.1:"), "its peer: " + peer);
        return true;
      }
    return false;
  });
  std::string said;
  wait_until("it is told hitch's address", kPatience, [&] {
    pollfd answered{out_read.get(), POLLIN, 0};
    char some[256];
    if (poll(&answered, 1, 10) != 1) return false;
    const ssize_t size = read(out_read.get(), some, sizeof some);
    if (size <= 0) throw Failure("its end after \"" + said + "\"");
    said.append(some, static_cast<size_t>(size));
    return said.find(address) != std::string::npos;
  });
  in_write.reset();
  kill(tls, SIGTERM);
  wait_for_child(tls, kPatience);
}

}  // namespace

Suite access_suite() {
  return {"access",
          {{"networks", networks},
           {"a list is reloaded", reloaded},
           {"many networks and a handler", many_networks_and_a_handler},
           {"many networks and a program", many_networks_and_a_program},
           {"many networks and a program that serves", many_networks_and_a_serving_program},
           {"per source", per_source},
           {"a burst from one source", a_burst_from_one_source},
           {"PROXY headers", proxy_headers},
           {"a proxy's own connection", a_proxys_own_connection},
           {"bad PROXY headers", bad_headers},
           {"silent PROXY headers", silent_headers},
           {"environment", environment},
           {"haproxy send-proxy", haproxy_version_1},
           {"haproxy send-proxy-v2", haproxy_version_2},
           {"hitch", hitch}}};
}

}  // namespace preforkd::system_test
