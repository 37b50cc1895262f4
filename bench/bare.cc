// The reference that preforkd's figures are held against: what the machine can do when there is no
// pool at all. A static program that links nothing of libstdc++'s (a fork copies what is mapped),
// so failure is a line on stderr and an exit, not an exception.
//
//   bare serve WORKERS   forks WORKERS echo servers on one listen socket of 127.0.0.1, prints
//                        its port when all of them run, and ends them at TERM or INT
//   bare forks COUNT     forks COUNT children and prints how long it took until all of them ran
//   bare replace COUNT   has COUNT children, kills them all, forks one for each that it reaps, and prints how long it
//                        took until as many new ones ran
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace preforkd {
namespace {

constexpr int kMaxProcesses = 4096;
constexpr int kBacklog = 4096;  // preforkd's default

[[noreturn]] void fail(const char* what) {
  perror(what);
  exit(1);
}

// Shared by the parent and all children: each counts itself in, and the last one wakes the parent,
// which is not woken by the others.
class Muster {
 public:
  explicit Muster(uint32_t expected) : expected_(expected) {
    void* memory =
        mmap(nullptr, sizeof(Counters), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    counters_ = new (memory) Counters;
  }
  void count_in() {
    if (counters_->present.fetch_add(1) + 1 < expected_) return;
    counters_->complete.store(1);
    syscall(SYS_futex, &counters_->complete, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
  void wait() {
    while (counters_->complete.load() == 0)
      syscall(SYS_futex, &counters_->complete, FUTEX_WAIT, 0, nullptr, nullptr, 0);
  }

 private:
  struct Counters {
    std::atomic<uint32_t> present{0};   // children that run
    std::atomic<uint32_t> complete{0};  // the futex: 1 once `present` is `expected_`
  };
  uint32_t expected_;
  Counters* counters_;
};

// The children by pid. Each stays a zombie until end() reaps it, so no pid here is ever a
// stranger's.
class Children {
 public:
  template <class Body>
  void fork_one(Body body) {
    pid_t pid = fork();
    if (pid < 0) {
      perror("fork");
      end();
      exit(1);
    }
    if (pid == 0) {
      body();
      _exit(0);
    }
    pids_[count_++] = pid;
  }
  void kill_all() {
    for (int i = 0; i < count_; i++) kill(pids_[i], SIGKILL);
  }
  void end() {
    kill_all();
    for (int i = 0; i < count_; i++) waitpid(pids_[i], nullptr, 0);
    count_ = 0;
  }

 private:
  pid_t pids_[kMaxProcesses];
  int count_ = 0;
};

int listen_on_loopback(uint16_t& port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (fd < 0 || bind(fd, generic, size) != 0 || listen(fd, kBacklog) != 0 ||
      getsockname(fd, generic, &size) != 0)
    fail("listen on 127.0.0.1");
  port = ntohs(address.sin_port);
  return fd;
}

void echo(int connection) {
  char buffer[16 * 1024];
  for (;;) {
    ssize_t got = recv(connection, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;
    for (ssize_t sent = 0; sent < got;) {
      ssize_t n = send(connection, buffer + sent, static_cast<size_t>(got - sent), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return;
      sent += n;
    }
  }
}

// The same way to a connection as preforkd's workers take: accept first, wait only if there was
// none, registered exclusively so that one waiter is woken, signals let in only during the wait.
[[noreturn]] void serve_forever(int listener, Muster& muster) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{EPOLLIN | EPOLLEXCLUSIVE, {}};
  if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0) fail("epoll");
  sigset_t none;
  sigemptyset(&none);
  muster.count_in();
  for (;;) {
    int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection >= 0) {
      echo(connection);
      close(connection);
    } else if (errno == EAGAIN) {
      epoll_pwait(epoll, &event, 1, -1, &none);
    }
  }
}

int serve(int workers) {
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  sigprocmask(SIG_BLOCK, &ending, nullptr);

  uint16_t port = 0;
  int listener = listen_on_loopback(port);
  Muster muster(static_cast<uint32_t>(workers));
  Children children;
  for (int i = 0; i < workers; i++) children.fork_one([&] { serve_forever(listener, muster); });
  muster.wait();
  printf("port=%u\n", port);
  fflush(stdout);

  int signal = 0;
  sigwait(&ending, &signal);
  children.end();
  return 0;
}

[[noreturn]] void run_on(Muster& muster) {
  muster.count_in();
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // after it is counted: not part of what is measured
  for (;;) pause();
}

void print_since(Nanoseconds begin) {
  printf("all_ms=%.3f\n", to_seconds(monotonic_now() - begin) * 1e3);
}

int forks(int count) {
  Muster muster(static_cast<uint32_t>(count));
  Children children;
  const Nanoseconds begin = monotonic_now();
  for (int i = 0; i < count; i++) children.fork_one([&] { run_on(muster); });
  muster.wait();
  print_since(begin);
  children.end();
  return 0;
}

int replace(int count) {
  Muster first(static_cast<uint32_t>(count)), second(static_cast<uint32_t>(count));
  Children killed, children;
  for (int i = 0; i < count; i++) killed.fork_one([&] { run_on(first); });
  first.wait();
  const Nanoseconds begin = monotonic_now();
  killed.kill_all();
  for (int i = 0; i < count; i++) {
    if (waitpid(-1, nullptr, 0) < 0) fail("wait");
    children.fork_one([&] { run_on(second); });
  }
  second.wait();
  print_since(begin);
  children.end();
  return 0;
}

}  // namespace
}  // namespace preforkd

int main(int argc, char** argv) {
  using namespace preforkd;
  int count = argc == 3 ? atoi(argv[2]) : 0;
  if (count > 0 && count <= kMaxProcesses) {
    if (strcmp(argv[1], "serve") == 0) return serve(count);
    if (strcmp(argv[1], "forks") == 0) return forks(count);
    if (strcmp(argv[1], "replace") == 0) return replace(count);
  }
  fprintf(stderr,
          "usage: bare serve WORKERS | bare forks COUNT | bare replace COUNT (at most %d)\n",
          kMaxProcesses);
  return 64;
}
