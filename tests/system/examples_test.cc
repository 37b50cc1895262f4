// The C++ face of handlers: the examples, built as a stranger builds them, against what `make install` made; and
// handlers that throw.
#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <latch>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/installation.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

// What was installed, and the examples that came with it, built against it: once for all tests here.
class Examples {
 public:
  static const Examples& built() {
    static const Examples examples;
    return examples;
  }
  std::string handler(const std::string& name) const {
    return examples() + "/" + name + "/" + name + ".so";
  }
  // As in a shell of somebody whose pkg-config finds what was installed.
  void must(const std::string& in, const std::string& command) const {
    const std::string installed = folder_.file("root");
    Outcome done = run({"env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "-C", in,
                        "PKG_CONFIG_PATH=" + installed + "/usr/local/lib/pkgconfig",
                        "PKG_CONFIG_SYSROOT_DIR=" + installed, "sh", "-c", command},
                       120);
    if (done.code != 0 || !done.err.empty()) throw Failure(command + ": " + done.err);
  }

 private:
  Examples() {
    install_under(folder_.file("root"));
    must(examples(), "make -s");
  }
  std::string examples() const {
    return folder_.file("root/usr/local/share/doc/preforkd/examples");
  }

  TestFolder folder_;
};

PoolText example_pool(const std::string& name, const std::string& workers,
                      const std::string& settings = "") {
  return {.name = name,
          .serves = "handler = \"" + Examples::built().handler(name) + "\"; settings = { " +
                    settings + "};",
          .workers = workers};
}

uint64_t private_kb(pid_t pid) {
  std::istringstream text(file_text("/proc/" + std::to_string(pid) + "/smaps_rollup"));
  for (std::string line; std::getline(text, line);)
    if (line.starts_with("Private_Dirty:")) return std::stoull(line.substr(14));
  throw Failure("no smaps_rollup of " + std::to_string(pid));
}
uint64_t largest_private_kb(Server& server, const std::string& pool) {
  uint64_t largest = 0;
  for (pid_t pid : server.worker_pids(pool)) largest = std::max(largest, private_kb(pid));
  return largest;
}

std::string ask(Client& client, const std::string& line) {
  client.send(line + "\n");
  return client.read_line();
}

// --- README.md

// What stands there, indented, from the line that begins so to the one that ends so.
std::string from_readme(const std::string& begin, const std::string& end) {
  const auto path = std::filesystem::path(__FILE__).parent_path() / "../../README.md";
  const std::string text = file_text(path);
  const size_t from = text.find("\n    " + begin), to = text.find(end + "\n", from);
  if (from == text.npos || to == text.npos) throw Failure("README.md has no " + begin);
  return text.substr(from, to + end.size() - from) + "\n";
}

void readme() {
  TestFolder folder;
  folder.write("mine.cc", from_readme("#include <preforkd/handler.hpp>", "});"));
  const std::string command = from_readme("$ c++ ", "mine.cc");
  Examples::built().must(folder.path(), command.substr(command.find("c++")));
  Server server({PoolText{.serves = "handler = \"" + folder.file("mine.so") + "\";"}});
  Client client(server.address());
  expect_equal("a line", ask(client, "hello"), "you said: hello");
  expect_contains("its note", server.ctl({"workers", "echo"}).out, "hello");
  client.half_close();
  expect_equal("the end", client.read_until_eof(), "");
}

// --- spell

void spell() {
  Server server({example_pool("spell", "min = 1; max = 2; min_spare = 1;")});
  Client client(server.address("spell"));
  expect_equal("a word", ask(client, "hello"), "ok");
  expect_contains("not ASCII", ask(client, "caf\xc3\xa9"), "no: cafe");
  expect_contains("a wrong one", ask(client, "helo"), "no: ");
  expect_contains("with a suggestion", ask(client, "recieve"), "receive");
  expect_equal("no suggestion", ask(client, "xqzzvqqkj"), "no");
  expect_equal("nothing", ask(client, ""), "error: a word was expected");
  expect_equal("with a carriage return", ask(client, "hello\r"), "ok");
  expect_equal("bytes that are none", ask(client, "\xff\xfe\x80"), "no");
  expect_equal("control characters", ask(client, std::string("a\0b", 3)), "error: not a word");
  expect_contains("the longest", ask(client, std::string(99, 'a')), "no");
  expect_equal("too long", ask(client, std::string(100, 'a')), "error: longer than 99 bytes");
  expect_equal("much too long", ask(client, std::string(1'000'000, 'a')),
               "error: longer than 99 bytes");
  expect_equal("it goes on", ask(client, "fine"), "ok");
  client.send("last");
  client.half_close();
  expect_equal("a last line without end", client.read_until_eof(), "ok\n");
  expect_exact_figures(server, "spell", 1);
  expect_equal("failed", server.pool("spell")["connections"]["failed"], 0);
}

void spell_without_dictionary() {
  Server server({PoolText{}});
  server.write_config(
      config_of({PoolText{}, example_pool("spell", "", "dictionary = \"/none\"; ")}));
  Outcome reload = server.ctl({"reload"});
  expect_equal("reload", reload.code, 1);
  server.wait_for_log("preload: load /none.aff: not readable");
}

// A tenth is what is promised, of workers that have served.
void spell_shares_its_dictionary() {
  constexpr int kWorkers = 4;
  uint64_t most[2];
  int next = 0;
  for (const char* load : {"preload", "start"}) {
    const std::string workers = std::to_string(kWorkers);
    Server server({example_pool("spell", "min = " + workers + "; max = " + workers + ";",
                                "load = \"" + std::string(load) + "\"; ")});
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < kWorkers; ++i) {
      clients.push_back(std::make_unique<Client>(server.address("spell")));
      expect_contains("each is used", ask(*clients.back(), "recieve"), "receive");
    }
    most[next++] = largest_private_kb(server, "spell");
  }
  if (are_sanitized()) return;
  expect(most[0] * 10 <= most[1], "private: " + std::to_string(most[0]) + " kB with preload, " +
                                      std::to_string(most[1]) + " kB without");
}

// --- accumulate

// A stream's numbers, and their sums.
class Numbers {
 public:
  explicit Numbers(uint32_t seed) : number_(seed) {}
  uint32_t next() { return number_ = number_ * 1664525 + 1013904223; }
  uint32_t next_sum() { return sum_ += next(); }

 private:
  uint32_t number_, sum_ = 0;
};

enum class Reader {
  kFast,
  kSlow,  // 2 MB/s at most
  kLate,  // nothing until it is let
};

constexpr double kTimeForStreams = 240;

// One stream: it is written from a thread of its own, and read and checked here.
void accumulate(const std::string& address, size_t bytes, uint32_t seed, Reader reader,
                std::latch& may_read) {
  Client client(address);
  const timeval patience{static_cast<time_t>(kTimeForStreams), 0};
  setsockopt(client.fd(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const int little = 32 * 1024;
  if (reader != Reader::kFast)
    setsockopt(client.fd(), SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
  std::string error;
  std::jthread writer([&] {
    try {
      Numbers numbers(seed), sizes(seed);
      std::vector<uint32_t> chunk;
      for (size_t left = bytes / 4; left > 0; left -= chunk.size() - 1) {
        chunk.resize(1 + std::min<size_t>(left, sizes.next() % (16 * 1024 + 1)));
        for (uint32_t& number : chunk)
          number = htonl(&number == chunk.data() ? 4 * (chunk.size() - 1) : numbers.next());
        client.send({reinterpret_cast<const char*>(chunk.data()), 4 * chunk.size()});
      }
      client.half_close();
    } catch (const std::exception& e) {
      error = e.what();
      shutdown(client.fd(), SHUT_RDWR);
    }
  });
  if (reader == Reader::kLate) may_read.wait();
  Numbers sums(seed);
  std::vector<uint32_t> words(reader == Reader::kSlow ? 1024 : 16 * 1024);
  size_t left = 0, received = 0, answers = 0;
  bool complete = false, right = true;
  while (right) {
    if (reader == Reader::kSlow) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const ssize_t got = recv(client.fd(), words.data(), 4 * words.size(), 0);
    if (got <= 0) break;
    // The last one may be there in part.
    const size_t part = static_cast<size_t>(got) % 4, missing = part ? 4 - part : 0;
    char* end = reinterpret_cast<char*>(words.data()) + got;
    if (missing && recv(client.fd(), end, missing, MSG_WAITALL) < 0) break;
    for (size_t i = 0; i < (static_cast<size_t>(got) + missing) / 4; ++i) {
      const uint32_t word = ntohl(words[i]);
      if (left > 0) {
        right = right && word == sums.next_sum();
        --left;
        ++received;
      } else {
        right = right && !complete && word % 4 == 0;
        left = word / 4;
        complete = word == 0;
        ++answers;
      }
    }
  }
  if (!complete || !right || received != bytes / 4) shutdown(client.fd(), SHUT_RDWR);
  writer.join();
  if (!error.empty()) throw Failure(error);
  if (!right) throw Failure("a wrong sum, or a wrong answer");
  if (!complete || received != bytes / 4 || answers < 2)
    throw Failure("not all was answered: " + std::to_string(received * 4) + " bytes");
}

// $ACCUMULATE_MB: 100 is what was measured for examples/README.md.
size_t bytes_of_each() {
  const char* given = std::getenv("ACCUMULATE_MB");
  return (given ? std::stoul(given) : are_sanitized() ? 1 : 4) * 1'000'000;
}

// Of 64 streams 8 read nothing before all others are through, and 8 read slowly.
void accumulate_in_parallel() {
  constexpr size_t kStreams = 64, kLate = 8, kSlow = 8, kHeld = 16'000'000;
  Server server({example_pool("accumulate", "min = 64; max = 66; min_spare = 1;")});
  const std::string address = server.address("accumulate");
  const Nanoseconds began = monotonic_now();
  std::latch others_done(kStreams - kLate), may_read(1);
  std::vector<std::string> errors(kStreams);
  std::vector<Nanoseconds> took(kStreams);
  std::vector<std::jthread> streams;
  for (size_t i = 0; i < kStreams; ++i)
    streams.emplace_back([&, i] {
      const Reader reader = i < kLate           ? Reader::kLate
                            : i < kLate + kSlow ? Reader::kSlow
                                                : Reader::kFast;
      try {
        // More than the kernel's buffers hold: a late one holds its worker.
        const size_t bytes = std::max(bytes_of_each(), reader == Reader::kLate ? kHeld : 0);
        accumulate(address, bytes, static_cast<uint32_t>(i), reader, may_read);
      } catch (const std::exception& e) {
        errors[i] = e.what();
      }
      took[i] = monotonic_now() - began;
      if (reader != Reader::kLate) others_done.count_down();
    });
  others_done.wait();
  const Json active = server.pool("accumulate")["connections"]["active"];
  const uint64_t most = largest_private_kb(server, "accumulate");
  may_read.count_down();
  streams.clear();
  for (const std::string& error : errors) expect_equal("a stream's error", error, "");
  expect_equal("those that read nothing", active, kLate);
  if (!are_sanitized()) expect(most < 600, "private memory of a worker: " + std::to_string(most));
  expect_exact_figures(server, "accumulate", kStreams);
  expect_equal("failed", server.pool("accumulate")["connections"]["failed"], 0);
  if (!std::getenv("ACCUMULATE_MB")) return;
  std::sort(took.begin() + kLate + kSlow, took.end());
  std::cout << "\n  fast streams: first after " << to_seconds(took[kLate + kSlow])
            << " s, last after " << to_seconds(took.back()) << " s; slow ones after at most "
            << to_seconds(*std::max_element(took.begin() + kLate, took.begin() + kLate + kSlow))
            << " s; all after " << to_seconds(*std::max_element(took.begin(), took.end()))
            << " s; private memory of a worker: at most " << most << " kB\n";
}

std::string number(uint32_t value) {
  value = htonl(value);
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

void accumulate_small_and_wrong() {
  Server server({example_pool("accumulate", "min = 1; max = 2; min_spare = 1;")});
  struct {
    const char* what;
    std::string sent, answered, logged;
  } cases[] = {
      {"nothing", "", number(0), ""},
      {"empty chunks", number(0) + number(0), number(0), ""},
      {"a few", number(8) + number(1) + number(2) + number(4) + number(UINT32_MAX),
       number(12) + number(1) + number(3) + number(2) + number(0), ""},
      {"too long", number(65540), "", "read: a chunk of 65540 bytes"},
      {"half a number", number(6), "", "read: a chunk of 6 bytes"},
      {"ends within a length", "abc", "", "read: the stream ended within a chunk"},
      {"ends within a chunk", number(8) + number(1), "", "read: the stream ended within a chunk"},
  };
  uint64_t not_served = 0;
  for (const auto& one : cases) {
    Client client(server.address("accumulate"));
    client.send(one.sent);
    client.half_close();
    expect(client.read_until_eof() == one.answered, one.what);
    if (one.logged.empty()) continue;
    ++not_served;
    server.wait_for_log("serve " + client.own_address() + ": " + one.logged);
  }
  expect_exact_figures(server, "accumulate", std::size(cases));
  // Nothing was sent to them: which they count as depends on whether the end of what they said had come.
  const Json ended = server.pool("accumulate")["connections"];
  expect_equal("failed or aborted",
               ended["failed"].get<uint64_t>() + ended["aborted"].get<uint64_t>(), not_served);
}

// --- handlers that throw

PoolText thrower(const std::string& settings, const std::string& workers) {
  return {.serves = "handler = \"@HANDLERS@/thrower.so\"; settings = { " + settings + " };",
          .workers = workers};
}
const char* const kOneWorker = "min = 1; max = 1; min_spare = 0;";

void throws_in_preload() {
  Server server({thrower("", kOneWorker)});
  server.write_config(config_of({thrower("preload = true;", kOneWorker)}));
  expect_equal("reload", server.ctl({"reload"}).code, 1);
  server.wait_for_log("preload: a fine day to throw");
  Client client(server.address());
  expect(!ask(client, "pid").empty(), "the old one serves on");
}

void throws_in_start() {
  TestFolder folder;
  const std::string early = folder.write("early", "");
  PoolText bad = thrower("start_while = \"" + early + "\";", "min = 2; max = 4;");
  bad.name = "bad";
  Server server({bad, PoolText{.name = "good"}});
  server.wait_for("/state", "degraded", "bad");
  server.wait_for_log("start: it is too early");
  expect(Client(server.address("good")).echoes("hello\n"), "the other serves");
  Client patient(server.address("bad"));
  patient.send("pid\n");
  std::filesystem::remove(early);
  expect(!patient.read_line(2 * kPatience).empty(), "served when it no longer throws");
  patient.half_close();
  patient.is_ended();
  server.wait_for("/state", "running", "bad");
  server.wait_for("/workers/total", 2, "bad");
}

void throws_in_serve() {
  Server server({thrower("", kOneWorker)});
  std::string pid;
  uint64_t failed = 0;
  const std::pair<std::string, std::string> orders[] = {
      {"runtime dear me", "dear me"},
      {"int", "an exception that is no std::exception"},
      {"memory", "std::bad_alloc"},
      {"wait", "read: deadline is over"},
      {std::string(1000, 'x'), "read: no delimiter within 100 bytes"}};
  for (const auto& [order, reason] : orders) {
    Client client(server.address());
    const std::string serving = ask(client, "pid");
    if (pid.empty()) pid = serving;
    expect_equal("the same worker", serving, pid);
    const std::string told = "serve " + client.own_address() + ": " + reason;
    client.send(order + "\n");
    expect(client.is_ended(), "it ends: " + order.substr(0, 20));
    server.wait_for("/connections/failed", ++failed);
    server.wait_for_log(told);
  }
  Client next(server.address());
  expect_equal("it serves on", ask(next, "pid"), pid);
  next.close();
  server.wait_for("/connections/served", 1);
  const Json pool = server.pool();
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  expect_equal("state", pool["state"], "running");
}

void throws_in_stop() {
  Server server({thrower("stop = true;", kOneWorker)});
  {
    Client client(server.address());
    ask(client, "pid");
  }
  Outcome recycled = server.ctl({"recycle", "echo"});
  expect_equal("recycle: " + recycled.err, recycled.code, 0);
  server.wait_for_log("stop: parting is such sweet sorrow");
  const Json pool = server.pool();
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
  expect_equal("failed", pool["connections"]["failed"], 0);
  Client next(server.address());
  expect(!ask(next, "pid").empty(), "the next one serves");
}

}  // namespace

Suite examples_suite() {
  return {"examples",
          {{"README.md", readme},
           {"spell", spell},
           {"spell without a dictionary", spell_without_dictionary},
           {"spell shares its dictionary", spell_shares_its_dictionary},
           {"accumulate in parallel", accumulate_in_parallel},
           {"accumulate, small and wrong", accumulate_small_and_wrong},
           {"throws in preload", throws_in_preload},
           {"throws in start", throws_in_start},
           {"throws in serve", throws_in_serve},
           {"throws in stop", throws_in_stop}}};
}

}  // namespace preforkd::system_test
