// accepts: a program that knows nothing of preforkd, and accepts on the listen socket that it was given: descriptor 3, if it finds
// LISTEN_FDS as sd_listen_fds(3) does, else descriptor 0.
//
//   accepts WAY [OPTION...]
//
// WAY: how it waits: accept accept4 poll ppoll select pselect epoll edge (epoll, edge-triggered)
//   nonblock fionbio   its socket does not block                 copy      it uses a copy of it
//   closes             closes all descriptors from 4 on, in each of the ways in which programs do that
//   everybodys         does to the socket what others would feel: listen(1), shutdown()
//   pipe               polls an own pipe, too, in which something comes with SIGUSR1
//   thread             serves in another thread                  child     has a child accept
//   fclose dup leaks shuts   how a connection ends: by fclose(3), the copy last, not at all, by shutdown(2) alone
//   once               ends after the first                      bye       says so at its end
//   signal             counts as woken, too, when a signal (SIGUSR1) ends its accept
//   handlers           installs its handlers anew for each connection: it would end by them
//
// Each line of a client is an order, answered by a line: pid, peer (of accept), peername, own (getsockname), environment (what is
// there of preforkd's), flags (O_NONBLOCK of the listen socket), woken (how often the pipe has), end (closes).
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

std::vector<std::string> options;
int listening = 0, pipe_ends[2] = {-1, -1}, epoll = -1;
int woken = 0;

bool has(const char* option) {
  return std::find(options.begin(), options.end(), option) != options.end();
}

std::string text_of(const sockaddr_storage& address) {
  char text[64] = "";
  if (address.ss_family == AF_UNIX) return "unix";
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
  const bool is_v6 = address.ss_family == AF_INET6;
  inet_ntop(address.ss_family, is_v6 ? static_cast<const void*>(&v6->sin6_addr) : &v4->sin_addr,
            text, sizeof text);
  const std::string port = std::to_string(ntohs(is_v6 ? v6->sin6_port : v4->sin_port));
  return is_v6 ? "[" + std::string(text) + "]:" + port : std::string(text) + ":" + port;
}

std::string name_of(int fd, int (*get)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  get(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return text_of(address);
}

std::string environment() {
  std::string found;
  for (char** entry = environ; *entry; ++entry)
    if (!std::strncmp(*entry, "LD_PRELOAD", 10) || !std::strncmp(*entry, "PREFORKD", 8))
      found += std::string(*entry) + " ";
  return found.empty() ? "clean" : found;
}

// What it is told when it registers the listen socket as it cannot be.
std::string errors_of_epoll() {
  const int other = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  std::string all;
  auto tell = [&](int instance, int operation, epoll_event* with) {
    const bool fails = epoll_ctl(instance, operation, listening, with) < 0;
    all += (fails ? strerrorname_np(errno) : "0") + std::string(" ");
  };
  tell(pipe_ends[0], EPOLL_CTL_ADD, &event);
  tell(-1, EPOLL_CTL_ADD, &event);
  tell(other, EPOLL_CTL_MOD, &event);
  tell(other, EPOLL_CTL_DEL, nullptr);
  tell(other, EPOLL_CTL_ADD, nullptr);
  tell(other, EPOLL_CTL_ADD, &event);
  tell(other, EPOLL_CTL_ADD, &event);
  tell(other, 99, &event);
  tell(other, EPOLL_CTL_DEL, nullptr);
  tell(other, EPOLL_CTL_DEL, nullptr);
  close(other);
  return all;
}

std::string answer(int fd, const std::string& order, const std::string& peer) {
  if (order == "pid") return std::to_string(getpid());
  if (order == "peer") return peer;
  if (order == "peername") return name_of(fd, getpeername);
  if (order == "own") return name_of(fd, getsockname);
  if (order == "environment") return environment();
  if (order == "flags") return fcntl(listening, F_GETFL) & O_NONBLOCK ? "nonblocking" : "blocking";
  if (order == "epoll") return errors_of_epoll();
  if (order == "woken") return std::to_string(woken);
  return "?";
}

void end(int fd) {
  if (has("leaks")) return;
  if (has("shuts")) {
    shutdown(fd, SHUT_WR);
  } else if (has("fclose")) {
    fclose(fdopen(fd, "r+"));
  } else if (has("dup")) {
    const int copy = dup(fd);
    close(fd);
    send(copy, "a copy\n", 7, MSG_NOSIGNAL);
    char byte;
    while (recv(copy, &byte, 1, 0) > 0) {
    }
    close(copy);
  } else {
    close(fd);
  }
}

// By each of libc's ways, which tell what the last one has installed.
void install_handlers() {
  static const sighandler_t handler = [](int) { _exit(6); };
  static bool is_first = true;
  for (int number : {SIGTERM, SIGUSR2, SIGURG}) {
    struct sigaction action {
    }, before{};
    action.sa_handler = handler;
    const sighandler_t was = signal(number, SIG_IGN);
    const bool is_told = sigaction(number, &action, &before) == 0 && before.sa_handler == SIG_IGN;
    if (!is_told || was != (is_first ? SIG_DFL : handler)) _exit(7);
  }
  is_first = false;
}

void serve(int fd, const std::string& peer) {
  if (has("handlers")) install_handlers();
  std::string order;
  char byte;
  while (recv(fd, &byte, 1, 0) == 1) {
    if (byte != '\n') {
      order += byte;
      continue;
    }
    if (order == "end") break;
    const std::string line = answer(fd, order, peer) + "\n";
    send(fd, line.data(), line.size(), MSG_NOSIGNAL);
    order.clear();
  }
  end(fd);
}

void take_from_pipe() {
  char byte;
  while (read(pipe_ends[0], &byte, 1) == 1) ++woken;
}

int watch(int operation, uint32_t more) {
  epoll_event event{};
  event.events = EPOLLIN | more;
  event.data.fd = listening;
  return epoll_ctl(epoll, operation, listening, &event);
}

// Until the socket is ready, by the way that was asked for.
void wait_for_client(const std::string& way) {
  pollfd fds[] = {{listening, POLLIN, 0}, {pipe_ends[0], POLLIN, 0}};
  const timespec hour{3600, 0};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(listening, &set);
  epoll_event event{};
  if (way == "oneshot") watch(EPOLL_CTL_MOD, EPOLLONESHOT);
  for (;;) {
    int got = 1;
    if (way == "poll") got = poll(fds, 2, -1);
    if (way == "ppoll") got = ppoll(fds, 2, &hour, nullptr);
    if (way == "select") got = select(listening + 1, &set, nullptr, nullptr, nullptr);
    if (way == "pselect") got = pselect(listening + 1, &set, nullptr, nullptr, &hour, nullptr);
    if (epoll >= 0) got = epoll_wait(epoll, &event, 1, -1);
    if (got < 0 && errno == EINTR) continue;
    if (fds[1].revents) take_from_pipe();
    if (got == 1 && !(fds[1].revents && !fds[0].revents)) break;
  }
}

int take_client(const std::string& way, sockaddr_storage& peer) {
  socklen_t size = sizeof peer;
  auto* address = reinterpret_cast<sockaddr*>(&peer);
  for (;;) {
    wait_for_client(way);
    const int fd = way == "accept4" ? accept4(listening, address, &size, SOCK_CLOEXEC)
                                    : accept(listening, address, &size);
    if (fd >= 0) return fd;
    if (errno == EINTR) {
      ++woken;
    } else if (errno == EAGAIN && (way == "accept" || way == "accept4")) {
      pollfd ready{listening, POLLIN, 0};
      poll(&ready, 1, -1);
    } else if (errno != EAGAIN) {
      std::perror("accept");
      _exit(3);
    }
  }
}

void close_all() {
  closefrom(4);
  close_range(4, ~0u, 0);
  for (int fd = 4; fd < 1024; ++fd) close(fd);
}

void prepare(const std::string& way) {
  const char* pid = std::getenv("LISTEN_PID");
  if (pid && std::atoi(pid) == getpid() && std::getenv("LISTEN_FDS")) listening = 3;
  if (has("copy")) listening = fcntl(listening, F_DUPFD_CLOEXEC, 0);
  if (has("nonblock")) fcntl(listening, F_SETFL, O_NONBLOCK);
  int yes = 1;
  if (has("fionbio")) ioctl(listening, FIONBIO, &yes);
  if (has("closes")) close_all();
  if (has("everybodys")) listen(listening, 1), shutdown(listening, SHUT_RDWR);
  if (has("pipe")) {
    if (pipe2(pipe_ends, O_NONBLOCK) < 0) _exit(4);
    signal(SIGUSR1, [](int) {
      if (write(pipe_ends[1], "x", 1) != 1) _exit(5);
    });
  }
  if (has("signal")) {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    sigaction(SIGUSR1, &action, nullptr);
  }
  const std::map<std::string, uint32_t> flags = {
      {"epoll", 0}, {"edge", EPOLLET}, {"oneshot", EPOLLONESHOT}, {"exclusive", EPOLLEXCLUSIVE}};
  if (const auto found = flags.find(way); found != flags.end()) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(EPOLL_CTL_ADD, found->second);
  }
  if (has("bye")) std::atexit([] { std::printf("bye\n"), std::fflush(stdout); });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string way = argc > 1 ? argv[1] : "accept";
  options.assign(argv + std::min(argc, 2), argv + argc);
  prepare(way);
  if (has("child") && fork() > 0)
    for (;;) pause();
  for (;;) {
    sockaddr_storage peer{};
    const int fd = take_client(way, peer);
    if (has("thread"))
      std::thread(serve, fd, text_of(peer)).detach();
    else
      serve(fd, text_of(peer));
    if (has("once")) return 0;
  }
}
