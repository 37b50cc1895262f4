// Clients of a server whose workers can be made to crash: a first byte 'c' aborts whoever serves it, anything else is
// answered by a line. And what such a server may run, and what its workers cost without a pool.
//
//   crash at-once PORT COUNT     COUNT clients send 'c' at once; prints next_ms: how long the next client waits
//                                from its connect to its answer
//   crash drip PORT SECONDS      one client sends 'c' each 0.2 s, 10 others ask once in 2 s; prints asked, worst_ms
//   crash bare COUNT ARGV...     starts COUNT processes, 16 at a time, waits for the end of each, which a 'c' on its
//                                standard input asks for; prints all_ms
//   crash                        is a program for one connection
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bench/loopback.h"

namespace preforkd::bench {
namespace {

constexpr int kPatience = 150;  // seconds
constexpr int kAtATime = 16, kAskers = 10;
constexpr Nanoseconds kBetweenCrashes = 200 * kMillisecond, kBetweenQuestions = 2 * kSecond;

void sleep_until(Nanoseconds moment) {
  const timespec at = to_timespec(moment);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
  }
}

UniqueFd connected(uint16_t port) {
  UniqueFd fd = tcp_socket();
  const timeval patience{kPatience, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect_to_loopback(fd.get(), port) != 0) throw SysError("connect", errno);
  return fd;
}

UniqueFd sent(uint16_t port, const char* text) {
  UniqueFd fd = connected(port);
  if (send(fd.get(), text, std::strlen(text), MSG_NOSIGNAL) < 0) throw SysError("send", errno);
  return fd;
}

// In milliseconds.
double ask(uint16_t port) {
  const Nanoseconds began = monotonic_now();
  const UniqueFd fd = sent(port, "p\n");
  char answer[64];
  if (recv(fd.get(), answer, sizeof answer, 0) <= 0) throw SysError("receive answer", errno);
  return to_seconds(monotonic_now() - began) * 1e3;
}

void at_once(uint16_t port, size_t count) {
  std::vector<UniqueFd> crashers;
  for (size_t i = 0; i < count; i++) crashers.push_back(sent(port, "c\n"));
  std::printf("next_ms=%.3f\n", ask(port));
}

void drip(uint16_t port, double seconds) {
  const Nanoseconds began = monotonic_now(), end = began + from_seconds(seconds);
  std::vector<double> worst(kAskers, 0);
  std::atomic<int> asked{0};
  std::vector<std::jthread> askers;
  for (size_t i = 0; i < kAskers; i++)
    askers.emplace_back([&, i] {
      for (Nanoseconds at = began + i * kBetweenQuestions / kAskers; at < end;
           at += kBetweenQuestions) {
        sleep_until(at);
        worst[i] = std::max(worst[i], ask(port));
        asked++;
      }
    });
  std::vector<UniqueFd> crashers;
  for (Nanoseconds at = began; at < end; at += kBetweenCrashes) {
    sleep_until(at);
    crashers.push_back(sent(port, "c\n"));
  }
  askers.clear();
  std::printf("asked=%d worst_ms=%.3f\n", asked.load(),
              *std::max_element(worst.begin(), worst.end()));
}

void bare(size_t count, char** argv) {
  const Nanoseconds began = monotonic_now();
  for (size_t started = 0, ended = 0; ended < count;) {
    if (started < count && started - ended < kAtATime) {
      const pid_t pid = fork();
      if (pid < 0) throw SysError("fork", errno);
      if (pid == 0) {
        int ends[2];
        if (pipe(ends) == 0 && write(ends[1], "c\n", 2) == 2 && dup2(ends[0], STDIN_FILENO) == 0)
          execvp(argv[0], argv);
        _exit(127);
      }
      started++;
      continue;
    }
    int status = 0;
    if (waitpid(-1, &status, 0) > 0) ended++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
      throw std::runtime_error(std::string("execute ") + argv[0]);
  }
  std::printf("all_ms=%.3f\n", to_seconds(monotonic_now() - began) * 1e3);
}

int serve_one() {
  char first = 0;
  if (read(STDIN_FILENO, &first, 1) != 1) return 1;
  if (first == 'c') abort();
  return write(STDOUT_FILENO, "done\n", 5) == 5 ? 0 : 1;
}

int run(int argc, char** argv) {
  if (argc == 1) return serve_one();
  const std::string what = argv[1];
  if (what == "bare" && argc > 3) {
    bare(static_cast<size_t>(number_argument("count", argv[2], 1000)), argv + 3);
    return 0;
  }
  if (argc != 4) {
    std::fprintf(stderr, "usage: crash at-once|drip PORT NUMBER | bare COUNT ARGV...\n");
    return 64;
  }
  const auto port = static_cast<uint16_t>(number_argument("port", argv[2], 65535));
  const double number = number_argument("number", argv[3], 1000);
  if (what == "at-once") at_once(port, static_cast<size_t>(number));
  if (what == "drip") drip(port, number);
  return 0;
}

}  // namespace
}  // namespace preforkd::bench

int main(int argc, char** argv) {
  using namespace preforkd::bench;
  return run_program("crash", run, argc, argv);
}
