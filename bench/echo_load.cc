// Short echo connections per second: CLIENTS threads, each of which connects, sends 32 bytes, ends
// its half, reads the echo up to the end of the stream, closes, and begins again, for SECONDS.
//
//   echo_load PORT CLIENTS SECONDS [resets]
//
// With `resets` it reads the echo alone, and ends the connection by a reset, as a browser that is closed while it loads
// a page: for server and client such a connection is less work, and what a server adds to it is a larger part.
//
// Prints: completed, refused, reset, wrong (short or altered answers), seconds, per_second.
//
// Blocking threads and not one epoll loop: with a single client thread on a two-core machine one
// core is the client's alone, and a server that costs more per connection would not show.
//
// The client ends first, as clients of an echo service do, so each connection stays behind as a
// TIME_WAIT of the client for a minute: about 28,000 ports of one source address would last for one
// second. So each thread goes through 254 source addresses of 127/8 (bound without a port, which
// connect then chooses for the pair of addresses). A reset leaves no TIME_WAIT: it needs none of that.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string_view>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bench/loopback.h"

namespace preforkd::bench {
namespace {

constexpr std::string_view kMessage = "thirty-two bytes there and back\n";
static_assert(kMessage.size() == 32);
constexpr unsigned kGraceSeconds = 10;  // after SECONDS, for the connections in flight

struct Tally {
  uint64_t completed = 0, refused = 0, reset = 0, wrong = 0;
  Tally& operator+=(const Tally& other) {
    completed += other.completed;
    refused += other.refused;
    reset += other.reset;
    wrong += other.wrong;
    return *this;
  }
};

// 127.1.CLIENT.1 to 127.1.CLIENT.254, in turn.
class SourceAddresses {
 public:
  explicit SourceAddresses(uint32_t client) : base_((127u << 24) | (1u << 16) | (client << 8)) {}

  void bind_next(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    sockaddr_in address = loopback_address(base_ + 1 + next_++ % 254, 0);
    if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      throw SysError("bind source address", errno);
  }

 private:
  uint32_t base_;
  uint32_t next_ = 0;
};

// How a connection ends: in order, by both; or by the client's reset.
enum class End { kOrderly, kReset };

void one_connection(uint16_t port, End end, SourceAddresses& sources, Tally& tally) {
  UniqueFd fd = tcp_socket();
  if (end == End::kOrderly) sources.bind_next(fd.get());
  if (connect_to_loopback(fd.get(), port) != 0) {
    if (errno == EADDRNOTAVAIL) throw SysError("connect: no source port left", errno);
    tally.refused++;
    return;
  }
  if (send(fd.get(), kMessage.data(), kMessage.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(kMessage.size()) ||
      (end == End::kOrderly && shutdown(fd.get(), SHUT_WR) != 0)) {
    tally.reset++;
    return;
  }
  // In order: one byte more than the echo, so that the call returns when the server has ended the stream.
  char answer[kMessage.size() + 1];
  const size_t wanted = end == End::kOrderly ? sizeof answer : kMessage.size();
  ssize_t got = recv(fd.get(), answer, wanted, MSG_WAITALL);
  if (got < 0)
    tally.reset++;
  else if (std::string_view(answer, static_cast<size_t>(got)) != kMessage)
    tally.wrong++;
  else
    tally.completed++;
  const linger at_once{1, 0};
  if (end == End::kReset) setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

int run(int argc, char** argv) {
  const bool resets = argc == 5 && std::strcmp(argv[4], "resets") == 0;
  if (argc != 4 && !resets) {
    std::fprintf(stderr, "usage: echo_load PORT CLIENTS SECONDS [resets]\n");
    return 64;
  }
  auto port = static_cast<uint16_t>(number_argument("port", argv[1], 65535));
  auto clients = static_cast<uint32_t>(number_argument("clients", argv[2], 255));
  double seconds = number_argument("seconds", argv[3], 600);
  const End end = resets ? End::kReset : End::kOrderly;
  // A connection that is never answered must not hang the benchmark: SIGALRM ends the program.
  alarm(static_cast<unsigned>(seconds) + kGraceSeconds);

  std::atomic<bool> stop{false};
  std::vector<Tally> tallies(clients);
  std::vector<std::exception_ptr> errors(clients);
  std::vector<std::thread> threads;
  Nanoseconds begin = monotonic_now();
  for (uint32_t client = 0; client < clients; client++) {
    threads.emplace_back([&, client] {
      Tally tally;  // its own until the end, so that threads share no cache line
      SourceAddresses sources(client);
      try {
        while (!stop.load(std::memory_order_relaxed)) one_connection(port, end, sources, tally);
      } catch (...) {
        errors[client] = std::current_exception();
      }
      tallies[client] = tally;
    });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  double elapsed = to_seconds(monotonic_now() - begin);
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);

  Tally total;
  for (const Tally& tally : tallies) total += tally;
  std::printf("completed=%lu refused=%lu reset=%lu wrong=%lu seconds=%.3f per_second=%.1f\n",
              total.completed, total.refused, total.reset, total.wrong, elapsed,
              static_cast<double>(total.completed) / elapsed);
  return 0;
}

}  // namespace
}  // namespace preforkd::bench

int main(int argc, char** argv) {
  using namespace preforkd::bench;
  return run_program("echo_load", run, argc, argv);
}
