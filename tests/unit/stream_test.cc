// Stream of preforkd/handler.hpp, over socketpairs whose other end is read and written here; and what the glue around
// a Handler makes of exceptions.
#include <sys/ioctl.h>
#include <sys/time.h>
#include <preforkd/handler.hpp>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/unit/unit_test.h"

namespace preforkd::unit {
namespace {

using std::chrono::milliseconds;

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// The far end is the client.
struct Pair {
  Pair() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      throw SysError("socketpair", errno);
    near.reset(ends[0]);
    far.reset(ends[1]);
    connection.size = sizeof connection;
    connection.fd = near.get();
    connection.number = 7;
    connection.peer = reinterpret_cast<const sockaddr*>(&client);
    connection.local = reinterpret_cast<const sockaddr*>(&server);
    connection.peer_length = connection.local_length = sizeof client;
  }
  void says(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t sent = send(far.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<size_t>(sent));
    }
  }
  void finishes() const { shutdown(far.get(), SHUT_WR); }
  std::string hears() const {  // what there is now
    char text[4096];
    const ssize_t got = recv(far.get(), text, sizeof text, MSG_DONTWAIT);
    return {text, got > 0 ? static_cast<size_t>(got) : 0};
  }

  UniqueFd near, far;
  sockaddr_in client = loopback(5), server = loopback(7007);
  preforkd_connection connection{};
};

// More than any buffer between the two holds, and nothing in it repeats soon.
std::string much(size_t size = 8 << 20) {
  std::string text(size, '\0');
  uint32_t state = 1;
  for (char& c : text) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return text;
}

template <class Error, class Work>
std::string thrown(Work work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  } catch (const std::exception& e) {
    return std::string("something else: ") + e.what();
  }
  return "nothing";
}

std::string exactly(Stream& stream, size_t size) {
  std::string text(size, '\0');
  text.resize(stream.read_exactly(text.data(), size));
  return text;
}

void reads_of_all_kinds_share_the_buffer() {
  Pair pair;
  Stream stream(pair.connection);
  pair.says("GET /x\r\nHost: h\n12345rest;;and more");
  CU_ASSERT(same_text(std::string(stream.read_line(100).value()), "GET /x"));
  CU_ASSERT(same_text(std::string(stream.read_until(": ", 100)), "Host: "));
  CU_ASSERT(same_text(std::string(stream.read_line(100).value()), "h"));
  CU_ASSERT(same_text(exactly(stream, 5), "12345"));
  CU_ASSERT(same_text(std::string(stream.read_until(";;", 100)), "rest;;"));
  char some[100];
  CU_ASSERT(same_text({some, stream.read_some(some, 3)}, "and"));
  CU_ASSERT(same_text({some, stream.read_some(some, sizeof some)}, " more"));
  pair.says("again");
  CU_ASSERT(same_text({some, stream.read_some(some, sizeof some)}, "again"));
  pair.finishes();
  CU_ASSERT_EQUAL(stream.read_some(some, sizeof some), 0);
  CU_ASSERT_EQUAL(stream.read_exactly(some, 1), 0);
  CU_ASSERT(stream.read_until(";", 10).empty());
  CU_ASSERT(!stream.read_line(10));
}

void short_only_at_the_end() {
  Pair pair;
  Stream stream(pair.connection);
  std::jthread client([&] {
    for (char c : std::string_view("one\ntwo")) pair.says({&c, 1});
    pair.finishes();
  });
  CU_ASSERT(same_text(exactly(stream, 2), "on"));
  CU_ASSERT(same_text(std::string(stream.read_until('\n', 9)), "e\n"));
  CU_ASSERT(same_text(exactly(stream, 10), "two"));
  CU_ASSERT(same_text(exactly(stream, 10), ""));
}

void end_in_the_middle_of_a_line() {
  Pair pair;
  Stream stream(pair.connection);
  pair.says("\n\r\nlast\r");
  pair.finishes();
  CU_ASSERT(same_text(std::string(stream.read_line(9).value()), ""));
  CU_ASSERT(same_text(std::string(stream.read_line(9).value()), ""));
  CU_ASSERT(same_text(std::string(stream.read_line(9).value()), "last\r"));
  CU_ASSERT(!stream.read_line(9));
}

void much_is_read_whole() {
  Pair pair;
  Stream stream(pair.connection);
  const std::string text = much();
  std::jthread client([&] {
    pair.says("head\n" + text);
    pair.finishes();
  });
  CU_ASSERT(stream.read_line(100) == "head");
  CU_ASSERT(exactly(stream, text.size() / 2) == text.substr(0, text.size() / 2));
  std::string rest;
  std::vector<char> some(Stream::kBuffer * 3);
  for (size_t got = 1; got > 0; rest.append(some.data(), got))
    got = stream.read_some(some.data(), some.size());
  CU_ASSERT(rest == text.substr(text.size() / 2));
}

void a_limit() {
  Pair pair;
  Stream stream(pair.connection);
  pair.says("12345\n123456\nrest\n");
  CU_ASSERT(same_text(std::string(stream.read_until('\n', 6)), "12345\n"));
  for (int i = 0; i < 2; ++i)  // nothing is consumed
    CU_ASSERT(same_text(thrown<TooLong>([&] { stream.read_until('\n', 6); }),
                        "read: no delimiter within 6 bytes"));
  CU_ASSERT(same_text(thrown<TooLong>([&] { stream.read_until("6\n", 7 - 1); }),
                      "read: no delimiter within 6 bytes"));
  CU_ASSERT(same_text(exactly(stream, 2), "12"));
  CU_ASSERT(stream.skip_until('\n'));
  CU_ASSERT(same_text(std::string(stream.read_line(6).value()), "rest"));
  pair.says("no end");
  pair.finishes();
  CU_ASSERT(!stream.skip_until("\n"));
  CU_ASSERT(!stream.read_line(6));
}

void a_limit_beyond_the_buffer() {
  Pair pair;
  Stream stream(pair.connection);
  const size_t limit = 5 * Stream::kBuffer;
  const std::string fits(limit - 2, 'x');
  std::jthread client([&] {
    pair.says("before\n" + fits + "\r\n" + fits + "x\r\n" + std::string(1 << 20, 'y') + "\r\nend");
    pair.finishes();
  });
  CU_ASSERT(stream.read_line(100) == "before");
  CU_ASSERT(stream.read_until("\r\n", limit) == fits + "\r\n");
  CU_ASSERT(thrown<TooLong>([&] { stream.read_until("\r\n", limit); }).starts_with("read: no"));
  CU_ASSERT(stream.skip_until("\r\n"));
  CU_ASSERT(stream.skip_until("\r\n"));
  CU_ASSERT(same_text(std::string(stream.read_until("\r\n", limit)), "end"));
}

void a_delimiter_in_pieces() {
  Pair pair;
  Stream stream(pair.connection);
  std::jthread client([&] {
    for (char c : std::string_view("a--b---end--b---end")) {
      pair.says({&c, 1});
      int unread = 1;
      while (ioctl(pair.near.get(), FIONREAD, &unread) == 0 && unread > 0) sched_yield();
    }
    pair.finishes();
  });
  CU_ASSERT(same_text(std::string(stream.read_until("--end", 100)), "a--b---end"));
  CU_ASSERT(stream.skip_until("--end"));
  CU_ASSERT(stream.read_until("--end", 100).empty());
}

void a_deadline_for_reads() {
  Pair pair;
  Stream stream(pair.connection);
  pair.says("part");
  const Nanoseconds began = monotonic_now();
  stream.set_deadline(milliseconds(50));
  CU_ASSERT(same_text(thrown<TimedOut>([&] { stream.read_line(100); }), "read: deadline is over"));
  CU_ASSERT(monotonic_now() - began >= 50 * kMillisecond);
  char some[Stream::kBuffer];
  pair.says("ly");  // too late, though it is there
  CU_ASSERT(same_text(thrown<TimedOut>([&] { stream.read_exactly(some, sizeof some); }),
                      "read: deadline is over"));
  stream.set_deadline(milliseconds(-5));
  CU_ASSERT(same_text(thrown<TimedOut>([&] { stream.read_some(some, sizeof some); }),
                      "read: deadline is over"));
  stream.set_deadline(milliseconds::max());
  CU_ASSERT(same_text({some, stream.read_some(some, sizeof some)}, "ly"));
  stream.clear_deadline();
  pair.finishes();
  CU_ASSERT(!stream.read_line(100));
}

// One byte now and then does not put it off.
void a_deadline_for_all_that_follows() {
  Pair pair;
  Stream stream(pair.connection);
  std::atomic<bool> over{false};
  std::jthread client([&] {
    while (!over) {
      pair.says(".");
      std::this_thread::sleep_for(milliseconds(1));
    }
  });
  stream.set_deadline(milliseconds(100));
  const std::string error = thrown<TimedOut>([&] {
    for (char byte[1];;) stream.read_exactly(byte, 1);
  });
  CU_ASSERT(same_text(error, "read: deadline is over"));
  over = true;
}

void a_deadline_for_writes() {
  Pair pair;
  Stream stream(pair.connection);
  const std::string text = much();
  stream.set_deadline(milliseconds(50));
  CU_ASSERT(
      same_text(thrown<TimedOut>([&] { stream.write_all(text); }), "write: deadline is over"));
}

// With a deadline and without, and the other direction meanwhile.
void a_slow_reader_gets_all() {
  for (bool bounded : {false, true}) {
    Pair pair;
    Stream stream(pair.connection);
    const std::string text = much();
    std::string heard;
    {
      std::jthread client([&] {
        std::vector<char> little(1500);
        while (heard.size() < text.size()) {
          const ssize_t got = recv(pair.far.get(), little.data(), little.size(), 0);
          if (got <= 0) break;
          heard.append(little.data(), static_cast<size_t>(got));
          sched_yield();
        }
        pair.says("thanks\n");
      });
      if (bounded) stream.set_deadline(std::chrono::seconds(60));
      stream.write_all(text);
      CU_ASSERT(stream.read_line(100) == "thanks");
    }
    CU_ASSERT(heard == text);
  }
}

void a_peer_that_is_gone() {
  Pair pair;
  Stream stream(pair.connection);
  pair.says("unread");
  pair.far.reset();
  CU_ASSERT(same_text(thrown<Closed>([&] { stream.write_all("x"); }), "write: Broken pipe"));
  char some[10];  // what it said before can still be read
  CU_ASSERT(same_text({some, stream.read_some(some, sizeof some)}, "unread"));
  Pair other;
  Stream second(other.connection);
  second.write_all("never read");
  other.far.reset();
  CU_ASSERT(
      same_text(thrown<Closed>([&] { second.read_line(9); }), "read: Connection reset by peer"));
  Pair third;
  preforkd_connection wrong = third.connection;
  UniqueFd file(memfd_create("no socket", MFD_CLOEXEC));
  wrong.fd = file.get();
  Stream none(wrong);
  CU_ASSERT(same_text(thrown<StreamError>([&] { none.write_all("x"); }),
                      "write: Socket operation on non-socket"));
}

void waits_on_a_descriptor_that_does_not_block() {
  Pair pair;
  int on = 1;
  ioctl(pair.near.get(), FIONBIO, &on);
  Stream stream(pair.connection);
  const std::string text = much(1 << 20);
  std::string heard(text.size(), '\0');
  std::jthread client([&] {
    pair.says("go\n");
    CU_ASSERT(recv(pair.far.get(), heard.data(), heard.size(), MSG_WAITALL) > 0);
  });
  CU_ASSERT(stream.read_line(100) == "go");
  stream.write_all(text);
  client.join();
  CU_ASSERT(heard == text);
}

std::atomic<int> interrupts{0};

// Every system call that waits is interrupted many times, and none of them gives up.
void interrupted() {
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { ++interrupts; };  // without SA_RESTART
  sigaction(SIGUSR1, &action, &before);
  const pthread_t served = pthread_self();
  for (bool bounded : {false, true}) {
    Pair pair;
    Stream stream(pair.connection);
    if (bounded) stream.set_deadline(std::chrono::seconds(60));
    const std::string text = much();
    std::string heard(text.size(), '\0');
    std::jthread client([&] {
      auto disturb = [&] {
        for (const int until = interrupts + 20; interrupts < until; sched_yield())
          pthread_kill(served, SIGUSR1);
      };
      disturb();
      pair.says("half");
      disturb();
      pair.says("line\n");
      for (size_t at = 0; at < heard.size();) {
        disturb();
        const size_t piece = std::min<size_t>(1 << 20, heard.size() - at);
        CU_ASSERT(recv(pair.far.get(), heard.data() + at, piece, MSG_WAITALL) ==
                  static_cast<ssize_t>(piece));
        at += piece;
      }
      pair.finishes();
    });
    CU_ASSERT(stream.read_line(100) == "halfline");
    stream.write_all(text);
    CU_ASSERT(!stream.read_line(100));
    client.join();
    CU_ASSERT(heard == text);
  }
  sigaction(SIGUSR1, &before, nullptr);
}

Address address_of(const sockaddr_un& address, size_t path) {
  return {reinterpret_cast<const sockaddr*>(&address),
          static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path)};
}

void addresses() {
  Pair pair;
  Stream stream(pair.connection);
  CU_ASSERT(same_text(stream.peer().to_string(), "127.0.0.1:5"));
  CU_ASSERT(same_text(stream.local().to_string(), "127.0.0.1:7007"));
  CU_ASSERT_EQUAL(stream.local().port(), 7007);
  CU_ASSERT_EQUAL(stream.number(), 7);
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(5);
  six.sin6_addr = in6addr_loopback;
  Address v6(reinterpret_cast<const sockaddr*>(&six), sizeof six);
  CU_ASSERT(same_text(v6.to_string(), "[::1]:5"));
  CU_ASSERT_EQUAL(v6.port(), 5);
  sockaddr_un local{};
  local.sun_family = AF_UNIX;
  CU_ASSERT(same_text(address_of(local, 0).to_string(), "unix:"));
  CU_ASSERT_EQUAL(address_of(local, 0).port(), 0);
  std::memcpy(local.sun_path, "/run/x", 7);
  CU_ASSERT(same_text(address_of(local, 7).to_string(), "unix:/run/x"));
  std::memcpy(local.sun_path, "\0name and more", 14);
  CU_ASSERT(same_text(address_of(local, 5).to_string(), "unix:@name"));
  std::memset(local.sun_path, 'p', sizeof local.sun_path);
  CU_ASSERT(same_text(address_of(local, sizeof local.sun_path).to_string(),
                      "unix:" + std::string(sizeof local.sun_path, 'p')));
  CU_ASSERT(same_text(Address().to_string(), ""));
}

// --- exceptions at the C interface

std::vector<std::string> logged;  // "LEVEL text"

preforkd_host test_host() {
  preforkd_host host{};
  host.abi = PREFORKD_ABI;
  host.size = sizeof host;
  host.pool = "p";
  host.settings = "{}";
  host.log = [](int level, const char* text) {
    logged.push_back(std::to_string(level) + " " + text);
  };
  return host;
}

struct Thrower : Handler {
  void preload(const Host& host) override { host.log(Level::kInfo, "preloaded"); }
  void start() override { throw std::runtime_error("no start"); }
  void serve(Stream& stream) override {
    const auto line = stream.read_line(10);
    if (line == "int") throw 1;
    if (line == "error") throw std::runtime_error("no more");
  }
  void stop() override { throw std::bad_alloc(); }
};
struct Refuser : Handler {
  void preload(const Host& host) override {
    throw std::runtime_error(std::string("no ") + host.pool());
  }
  void serve(Stream&) override {}
};

void expect_logged(const std::string& wanted) {
  CU_ASSERT(same_text(logged.empty() ? "nothing" : logged.back(), wanted));
  logged.clear();
}

void exceptions_stay_inside() {
  const preforkd_host host = test_host();
  void* state = nullptr;
  CU_ASSERT_EQUAL(HandlerGlue::preload<Refuser>(&host, &state), 1);
  expect_logged("3 preload: no p");
  CU_ASSERT_PTR_NULL(state);
  CU_ASSERT_EQUAL(HandlerGlue::preload<Thrower>(&host, &state), 0);
  expect_logged("6 preloaded");
  std::unique_ptr<Handler> owned(static_cast<Handler*>(state));
  CU_ASSERT_EQUAL(HandlerGlue::start(state), 1);
  expect_logged("3 start: no start");
  auto serve = [&](const char* says) {
    Pair pair;
    pair.says(says);
    pair.finishes();
    return HandlerGlue::serve(state, &pair.connection);
  };
  CU_ASSERT_EQUAL(serve("error\n"), 1);
  expect_logged("3 serve 127.0.0.1:5: no more");
  CU_ASSERT_EQUAL(serve("int\n"), 1);
  expect_logged("3 serve 127.0.0.1:5: an exception that is no std::exception");
  CU_ASSERT_EQUAL(serve("much too long\n"), 1);
  expect_logged("6 serve 127.0.0.1:5: read: no delimiter within 10 bytes");
  CU_ASSERT_EQUAL(serve("fine\n"), 0);
  expect_logged("nothing");
  HandlerGlue::stop(state);
  expect_logged("3 stop: std::bad_alloc");
  CU_ASSERT_PTR_NOT_NULL(HandlerGlue::start_of<Thrower>());
  CU_ASSERT_PTR_NULL(HandlerGlue::start_of<Refuser>());
  CU_ASSERT_PTR_NULL(HandlerGlue::stop_of<Refuser>());
}

void the_host() {
  static std::string noted;
  static uint32_t extended = 0;
  preforkd_host c_host = test_host();
  c_host.note = [](const char* text) { noted = text; };
  c_host.extend = [](uint32_t given) { extended = given; };
  const Host host(&c_host);
  host.note(std::string_view("GET /x and more").substr(0, 6));
  CU_ASSERT(same_text(noted, "GET /x"));
  host.note(std::string(1000, 'n'));
  CU_ASSERT(same_text(noted, std::string(127, 'n')));
  host.extend(std::chrono::seconds(2));
  CU_ASSERT_EQUAL(extended, 2000);
  host.extend(std::chrono::hours(24 * 365));
  CU_ASSERT_EQUAL(extended, UINT32_MAX);
  host.extend(milliseconds(-1));
  CU_ASSERT_EQUAL(extended, 0);
  const Host none;
  none.note("x");
  none.extend(milliseconds(1));
  none.recycle();
  none.log(Level::kInfo, "x");
  CU_ASSERT(same_text(none.settings(), "{}"));
}

constexpr Test kTests[] = {
    {"reads of all kinds share the buffer", reads_of_all_kinds_share_the_buffer},
    {"short only at the end", short_only_at_the_end},
    {"end in the middle of a line", end_in_the_middle_of_a_line},
    {"much is read whole", much_is_read_whole},
    {"a limit", a_limit},
    {"a limit beyond the buffer", a_limit_beyond_the_buffer},
    {"a delimiter in pieces", a_delimiter_in_pieces},
    {"a deadline for reads", a_deadline_for_reads},
    {"a deadline for all that follows", a_deadline_for_all_that_follows},
    {"a deadline for writes", a_deadline_for_writes},
    {"a slow reader gets all", a_slow_reader_gets_all},
    {"a peer that is gone", a_peer_that_is_gone},
    {"waits on a descriptor that does not block", waits_on_a_descriptor_that_does_not_block},
    {"interrupted", interrupted},
    {"addresses", addresses},
    {"exceptions stay inside", exceptions_stay_inside},
    {"the host", the_host},
};

}  // namespace
}  // namespace preforkd::unit

void add_stream_tests() { preforkd::unit::add_suite("stream", preforkd::unit::kTests); }
