// Clients as they are: silent, endless, gone in the middle. None costs a worker, none spoils a figure.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr uint64_t kGigabyte = uint64_t{1} << 30;

// Whoever is lost is missed: the pool has no reason to start or retire anybody.
std::vector<PoolText> static_pools() {
  return {PoolText{.workers = "min = 4; max = 4;"}, PoolText{.name = "discard",
                                                             .serves = "handler = \"discard\";",
                                                             .workers = "min = 2; max = 2;"}};
}

class Rounds {
 public:
  explicit Rounds(Server& server)
      : server_(server), echo_(workers("echo")), discard_(workers("discard")) {}

  // The books after so many connections, and the same workers as before them.
  void expect_unharmed(uint64_t echo, uint64_t discard = 0,
                       std::source_location where = std::source_location::current()) {
    expect_exact_figures(server_, "echo", echo, where);
    expect_exact_figures(server_, "discard", discard, where);
    expect(workers("echo") == echo_ && workers("discard") == discard_, "no worker was lost", where);
    expect(Client(server_.address()).echoes("hello\n"), "a new client is served", where);
  }

 private:
  std::set<pid_t> workers(const std::string& pool) {
    auto pids = server_.worker_pids(pool);
    return {pids.begin(), pids.end()};
  }

  Server& server_;
  const std::set<pid_t> echo_, discard_;
};

void says_nothing() {
  Server server(static_pools());
  Rounds rounds(server);
  std::vector<Client> silent;
  for (int i = 0; i < 3; ++i) silent.emplace_back(server.address());
  server.wait_for("/workers/busy", 3);
  expect(Client(server.address()).echoes("hello\n"), "another one is served beside them");
  silent.clear();
  rounds.expect_unharmed(4);
}

void holds_every_worker() {
  Server server(static_pools());
  Rounds rounds(server);
  std::vector<Client> silent;
  for (int i = 0; i < 4; ++i) silent.emplace_back(server.address());
  server.wait_for("/workers/busy", 4);
  Client waiting(server.address());
  waiting.send("when one leaves\n");
  server.wait_for("/backlog/queued", 1);
  silent.pop_back();
  expect_equal("who waited", waiting.read_line(), "when one leaves");
  silent.clear();
  waiting.close();
  rounds.expect_unharmed(5);
}

// The byte that stands at each place of the endless text.
std::string pattern(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i % 251);
  return text;
}

// Sends so much without ever waiting for its turn to read, and compares what comes back.
void send_and_compare(Client& client, uint64_t size, double seconds) {
  constexpr size_t kPeriod = 251, kPiece = 1000 * kPeriod;
  const std::string text = pattern(kPiece + kPeriod);
  std::string buffer(kPiece, '\0');
  const Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  fcntl(client.fd(), F_SETFL, O_NONBLOCK);
  for (uint64_t sent = 0, got = 0; got < size;) {
    if (monotonic_now() > deadline) throw Failure("the echo of 1 GB did not come in time");
    pollfd wanted{client.fd(), static_cast<short>(sent < size ? POLLIN | POLLOUT : POLLIN), 0};
    poll(&wanted, 1, 1000);
    if (wanted.revents & POLLOUT && sent < size) {
      ssize_t n = ::send(client.fd(), text.data() + sent % kPeriod,
                         std::min<uint64_t>(kPiece, size - sent), MSG_NOSIGNAL);
      if (n > 0) sent += static_cast<uint64_t>(n);
      if (sent == size) client.half_close();
    }
    if (!(wanted.revents & (POLLIN | POLLHUP | POLLERR))) continue;
    ssize_t n = recv(client.fd(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EAGAIN) continue;
    if (n <= 0) throw Failure("the echo ended after " + std::to_string(got) + " bytes");
    if (std::memcmp(buffer.data(), text.data() + got % kPeriod, static_cast<size_t>(n)) != 0)
      throw Failure("the echo differs near byte " + std::to_string(got));
    got += static_cast<uint64_t>(n);
  }
  expect_equal("what comes after the last byte", client.read_until_eof(), "");
}

void sends_a_gigabyte() {
  Server server(static_pools());
  Rounds rounds(server);
  Client echo(server.address());
  send_and_compare(echo, kGigabyte, 60);
  Client discard(server.address("discard"));
  const std::string piece = pattern(1 << 20);
  for (uint64_t sent = 0; sent < kGigabyte; sent += piece.size()) discard.send(piece);
  discard.half_close();
  expect_equal("the end of discard", discard.read_until_eof(), "");
  echo.close();
  discard.close();
  rounds.expect_unharmed(1, 1);
}

// The worker cannot send any more, and the client does not care.
void never_reads() {
  Server server(static_pools());
  Rounds rounds(server);
  for (bool politely : {true, false}) {
    Client client(server.address());
    fcntl(client.fd(), F_SETFL, O_NONBLOCK);
    const std::string piece = pattern(1 << 16);
    // Both ways are full when nothing can be sent for as long as a busy machine may take to serve.
    for (pollfd room{client.fd(), POLLOUT, 0}; poll(&room, 1, 200) == 1;)
      if (::send(client.fd(), piece.data(), piece.size(), MSG_NOSIGNAL) < 0 && errno != EAGAIN)
        break;
    expect(Client(server.address()).echoes("hello\n"), "others are served");
    politely ? client.close() : client.reset();
  }
  rounds.expect_unharmed(4);
}

void resets() {
  Server server(static_pools());
  Rounds rounds(server);
  uint64_t made = 0;
  const std::string piece = pattern(1 << 16);
  for (int round = 0; round < 20; ++round) {
    Client at_once(server.address());
    at_once.reset();
    Client after_a_word(server.address());
    after_a_word.send("hello\n");
    after_a_word.reset();
    Client in_the_answer(server.address());
    in_the_answer.send(piece);
    in_the_answer.read_bytes(1);
    in_the_answer.reset();
    made += 3;
  }
  rounds.expect_unharmed(made);
}

void half_closes() {
  Server server(static_pools());
  Rounds rounds(server);
  const std::string text = pattern(300'000);
  for (size_t size : {size_t{0}, size_t{1}, text.size()}) {
    Client client(server.address());
    client.send(std::string_view(text).substr(0, size));
    client.half_close();
    expect(client.read_until_eof() == text.substr(0, size), "the whole answer, then the end");
  }
  Client discard(server.address("discard"));
  discard.half_close();
  expect_equal("the end of discard", discard.read_until_eof(), "");
  discard.close();
  rounds.expect_unharmed(3, 1);
}

void comes_and_goes() {
  Server server(static_pools());
  Rounds rounds(server);
  const std::string echo = server.address(), discard = server.address("discard");
  for (int i = 0; i < 500; ++i) {
    Client(echo).close();
    Client(discard).close();
  }
  rounds.expect_unharmed(500, 500);
}

}  // namespace

Suite clients_suite() {
  return {"clients",
          {{"says nothing", says_nothing},
           {"holds every worker", holds_every_worker},
           {"sends 1 GB", sends_a_gigabyte},
           {"never reads", never_reads},
           {"resets", resets},
           {"half-closes", half_closes},
           {"comes and goes, 500 times", comes_and_goes}}};
}

}  // namespace preforkd::system_test
