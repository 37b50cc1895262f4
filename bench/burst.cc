// Connections that arrive at once and stay: connects COUNT times back to back, asks one line on
// each as soon as it is connected, and measures from the first connect until each has its first
// answer. All connections stay open until the last one is answered, so each needs a worker of its
// own.
//
//   burst PORT COUNT          the server echoes
//   burst PORT COUNT SECONDS  the same, and they stay so long, from the first connect on
//   burst PORT COUNT http     it is a web server with keep-alive, whose first byte counts
//
// Prints: answered, p50_ms and all_ms.
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bench/loopback.h"

namespace preforkd::bench {
namespace {

constexpr Nanoseconds kDeadline = 90 * kSecond;
constexpr std::string_view kLine = "the quick brown fox jumps over\n";
constexpr std::string_view kHttpRequest = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

class Burst {
 public:
  Burst(size_t count, std::string_view question, bool expects_echo)
      : question_(question), expects_echo_(expects_echo), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    if (!epoll_.is_open()) throw SysError("epoll_create1", errno);
    // Made before the clock starts: the server's time is measured, not socket()'s.
    for (size_t i = 0; i < count; i++) connections_.push_back({tcp_socket(SOCK_NONBLOCK), false});
  }

  // The time of each first answer, after the first connect; sorted.
  std::vector<Nanoseconds> run(uint16_t port) {
    begin_ = monotonic_now();
    for (size_t i = 0; i < connections_.size(); i++) open(i, port);
    std::vector<Nanoseconds> answers;
    std::vector<epoll_event> events(connections_.size());
    while (answers.size() < connections_.size()) {
      int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 1000);
      if (n < 0 && errno != EINTR) throw SysError("epoll_wait", errno);
      if (monotonic_now() - begin_ > kDeadline)
        throw std::runtime_error("wait for answers: only " + std::to_string(answers.size()) +
                                 " came within the deadline");
      for (int i = 0; i < n; i++)
        if (advance(events[static_cast<size_t>(i)])) answers.push_back(monotonic_now() - begin_);
    }
    return answers;
  }
  Nanoseconds begin() const { return begin_; }

 private:
  struct Connection {
    UniqueFd fd;
    bool asked = false;
  };

  void open(size_t index, uint16_t port) {
    int fd = connections_[index].fd.get();
    if (connect_to_loopback(fd, port) != 0 && errno != EINPROGRESS)
      throw SysError("connect", errno);
    epoll_event interest{EPOLLIN | EPOLLOUT | EPOLLET, {.u64 = index}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &interest) != 0)
      throw SysError("epoll_ctl", errno);
  }

  // True if this was the connection's first answer.
  bool advance(const epoll_event& event) {
    Connection& connection = connections_[event.data.u64];
    int fd = connection.fd.get();
    if (!connection.asked) {
      if (!(event.events & (EPOLLOUT | EPOLLERR))) return false;
      ssize_t sent = send(fd, question_.data(), question_.size(), MSG_NOSIGNAL);
      if (sent != static_cast<ssize_t>(question_.size())) throw SysError("send", errno);
      connection.asked = true;
      return false;
    }
    if (!(event.events & (EPOLLIN | EPOLLERR | EPOLLHUP))) return false;
    char answer[4096];
    ssize_t got = recv(fd, answer, sizeof answer, 0);
    if (got < 0 && errno == EAGAIN) return false;
    if (got < 0) throw SysError("receive answer", errno);
    if (got == 0) throw std::runtime_error("receive answer: the server closed the connection");
    std::string_view text(answer, static_cast<size_t>(got));
    if (expects_echo_ && text != question_) throw std::runtime_error("receive answer: not an echo");
    // The rest of a web server's answer is of no interest: no further event is looked at.
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    return true;
  }

  std::string_view question_;
  bool expects_echo_;
  UniqueFd epoll_;
  std::vector<Connection> connections_;
  Nanoseconds begin_ = 0;
};

int run(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: burst PORT COUNT [SECONDS | http]\n");
    return 64;
  }
  auto port = static_cast<uint16_t>(number_argument("port", argv[1], 65535));
  auto count = static_cast<size_t>(number_argument("count", argv[2], 10000));
  bool http = argc == 4 && std::strcmp(argv[3], "http") == 0;
  double hold = argc == 4 && !http ? number_argument("seconds", argv[3], 60) : 0;

  Burst burst(count, http ? kHttpRequest : kLine, !http);
  std::vector<Nanoseconds> answers = burst.run(port);
  std::printf("answered=%zu p50_ms=%.3f all_ms=%.3f\n", answers.size(),
              to_seconds(answers[answers.size() / 2]) * 1e3, to_seconds(answers.back()) * 1e3);
  std::fflush(stdout);
  Nanoseconds until = burst.begin() + from_seconds(hold), now = monotonic_now();
  if (now < until) std::this_thread::sleep_for(std::chrono::nanoseconds(until - now));
  return 0;
}

}  // namespace
}  // namespace preforkd::bench

int main(int argc, char** argv) {
  using namespace preforkd::bench;
  return run_program("burst", run, argc, argv);
}
