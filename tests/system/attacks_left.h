// A process that code of a pool leaves behind, in a session of its own and a child of nobody's:
//
//   leave NAME HOW     answers with its pid. NAME is what `ps` shows (comm), and an abstract socket,
//                      which is there as long as it, or a child of it
//     plain            accepts on every listen socket that it inherited, and answers "left PID" there
//     stubborn         the same, and ignores every signal that can be ignored
//     chain            the same, and is another process each few milliseconds: it forks, and ends
//     deep             the same, with a hundred descendants, each the child of the one before
//     swarm            the same as chain, two of them
//     many             the same, with 450 children of ten threads each; TERM does not end them
//     line, state, user   the same as plain, with a name that reads as more of /proc than a name
//     obeys            takes orders on its abstract socket
//
// Each ends by itself after kLeftLives, whatever the test does.
#pragma once

#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/un.h>

#include <sstream>

#include "base/clock.h"
#include "tests/system/attacks.h"

namespace preforkd::system_test::attack {

constexpr Nanoseconds kLeftLives = 180 * kSecond;

inline std::vector<pollfd> inherited_listeners() {
  std::vector<pollfd> all;
  for (int fd = 0; fd < kMostFds; ++fd) {
    int listens = 0;
    socklen_t size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens)
      all.push_back({fd, POLLIN, 0});
  }
  return all;
}

inline void answer_clients(std::vector<pollfd>& listeners, int milliseconds) {
  if (poll(listeners.data(), listeners.size(), milliseconds) <= 0) return;
  for (const pollfd& one : listeners) {
    if (!(one.revents & POLLIN)) continue;
    const int client = accept4(one.fd, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) continue;
    const std::string text = "left " + std::to_string(getpid()) + "\n";
    send(client, text.data(), text.size(), MSG_NOSIGNAL);
    close(client);
  }
  // One that was shut down is always ready.
  for (pollfd& one : listeners)
    if (one.revents & (POLLHUP | POLLERR)) one.fd = -1;
}

inline int abstract_socket(const std::string& name) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) < 0 || listen(fd, 4) < 0) _exit(1);
  return fd;
}

using Obey = std::string (*)(const std::string& order);

// Lines of one client, each answered by a line.
inline void obey_lines(int in, int out, Obey obey) {
  orders_come_by = in;
  std::string line;
  for (char next; read_on(in, &next, 1) == 1;) {
    if (next != '\n') {
      line += next;
      continue;
    }
    const std::string answer = obey(line) + "\n";
    if (write(out, answer.data(), answer.size()) < 0) return;
    line.clear();
  }
}

inline void* sleep_for_ever(void*) {
  for (;;) pause();
}

inline void have_many_children() {
  signal(SIGTERM, SIG_IGN);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 << 10);
  for (int i = 0; i < 450; ++i) {
    if (fork() != 0) continue;
    alarm(kLeftLives / kSecond);
    pthread_t thread;
    for (int t = 1; t < 10; ++t) pthread_create(&thread, &small, sleep_for_ever, nullptr);
    sleep_for_ever(nullptr);
  }
}

// `tell`: where its pid is awaited.
[[noreturn]] inline void live_on(const std::string& name, const std::string& how, Obey obey,
                                 int tell) {
  setsid();
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);  // who waits for the end of what is said there shall not wait for this
  dup2(null, 1);
  prctl(PR_SET_NAME, how == "line"    ? "x\ny"
                     : how == "state" ? "x) S 77\n"
                     : how == "user"  ? "Uid: 1 1 1"
                                      : name.c_str());
  if (how == "stubborn")
    for (int number = 1; number < NSIG; ++number) signal(number, SIG_IGN);
  std::vector<pollfd> listeners = inherited_listeners();
  const pid_t first = getpid();
  const int listener = abstract_socket(name);
  for (int i = 0; i < 100 && how == "deep"; ++i) {
    if (fork() == 0) continue;
    alarm(kLeftLives / kSecond);
    for (;;) pause();
  }
  if (how == "many") have_many_children();
  signal(SIGPIPE, SIG_IGN);  // who waits for it may be dead by now
  [[maybe_unused]] const ssize_t told = write(tell, &first, sizeof first);
  close(tell);
  const Nanoseconds end = monotonic_now() + kLeftLives;
  if (how == "obeys") {
    alarm(kLeftLives / kSecond);
    for (;;) {
      const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      obey_lines(client, client, obey);
      close(client);
    }
  }
  const bool is_chain = how == "chain" || how == "swarm";
  if (how == "swarm") fork();
  while (monotonic_now() < end) {
    answer_clients(listeners, is_chain ? 5 : 100);
    if (is_chain && fork() > 0) _exit(0);
  }
  _exit(0);
}

inline std::string leave(const std::string& name, const std::string& how, Obey obey) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return "0";
  const pid_t between = fork();
  if (between == 0) {
    if (fork() > 0) _exit(0);
    close(ends[0]);
    live_on(name, how, obey, ends[1]);
  }
  close(ends[1]);
  pid_t left = 0;
  if (read_on(ends[0], &left, sizeof left) != sizeof left) left = 0;
  close(ends[0]);
  reap(between);
  return std::to_string(left);
}

}  // namespace preforkd::system_test::attack
