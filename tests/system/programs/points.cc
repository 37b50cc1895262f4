// points: a program that accepts by itself, and does before its first preforkd_accept() what its arguments say, in their order:
//
//   says TEXT      writes a line to the log
//   thread         starts one that stays       joined    ... one that has ended and was joined
//   child          forks one that stays        orphan    ... one of whom nobody is the parent any more
//   connection     is connected over TCP       listens   listens on a port of its own
//   udp tcp inotify timerfd netlink open    has one of these (open: a pipe to read from whose writer is somebody else)
//   file PATH      reads the first line of it
//   event pipe pair epoll syslog               has one of these; epoll: with the reading ends of the others in it
//   alarm timer    sets one of setitimer(2), of timer_create(2)      atfork    registers handlers with pthread_atfork()
//   hook           registers preforkd_after_fork()       fails     ... one that ends the process
//   breaks         exits with 9 when it is to be forked from
//   never          goes no further              dies      exits with 3
//   floods         writes a megabyte to stderr
//   without N      system call N is refused to it from then on (EPERM; of prctl: what asks for the thread id's address)
//   shuts          closes all descriptors
//
// Each line of a client is an order, and is answered by a line: pid, parent, group, thread (what glibc takes for its id),
// line (the next one of the file), full (what waits in event, pipe and pair, after one more was put there), alarm (waits for
// it), atfork, hook (how often each handler has run here), descriptors, end.
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <preforkd/serve.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>

namespace {

int file = -1, event_fd = -1, pipe_ends[2] = {-1, -1}, pair_ends[2] = {-1, -1}, epoll_fd = -1;
volatile sig_atomic_t alarms = 0;
int prepared = 0, in_parent = 0, in_child = 0, hooks = 0;

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::exit(2);
}

int made(int fd, const char* what) {
  if (fd < 0) give_up(what);
  return fd;
}

std::string line_of_file() {
  std::string line;
  for (char c; read(file, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}

void connect_to_oneself() {
  const int listener = made(socket(AF_INET, SOCK_STREAM, 0), "socket");
  sockaddr_in address{};
  socklen_t size = sizeof address;
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  made(bind(listener, reinterpret_cast<sockaddr*>(&address), size), "bind");
  made(listen(listener, 1), "listen");
  made(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
  const int client = made(socket(AF_INET, SOCK_STREAM, 0), "socket");
  made(connect(client, reinterpret_cast<sockaddr*>(&address), size), "connect");
}

void listen_somewhere() {
  const int listener = made(socket(AF_INET, SOCK_STREAM, 0), "socket");
  made(listen(listener, 1), "listen");
}

void read_from_somebody() {
  int ends[2];
  made(pipe(ends), "pipe");
  if (fork() == 0) {
    if (fork() == 0) pause();
    _exit(0);
  }
  wait(nullptr);
  close(ends[1]);
}

void watch_all() {
  epoll_fd = made(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  for (int fd : {event_fd, pipe_ends[0], pair_ends[0]}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (fd >= 0) made(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  }
}

void be_without(unsigned number) {
  made(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  const unsigned which = number == SYS_prctl ? PR_GET_TID_ADDRESS : 0;
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, which, 0, number == SYS_prctl),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program = {6, filter};
  made(static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)), "seccomp");
}

void flood() {
  const std::string line(1023, 'x');
  for (int i = 0; i < 1024; ++i) std::fprintf(stderr, "%s\n", line.c_str());
}

void stay_as_child(bool outlives) {
  if (fork() != 0) {
    if (outlives) wait(nullptr);
    return;
  }
  if (outlives && fork() != 0) _exit(0);
  for (;;) pause();
}

const std::map<std::string, std::function<void()>>& steps() {
  static const std::map<std::string, std::function<void()>> all = {
      {"thread",
       [] {
         std::thread([] {
           for (;;) pause();
         }).detach();
       }},
      {"joined", [] { std::thread([] {}).join(); }},
      {"child", [] { stay_as_child(false); }},
      {"orphan", [] { stay_as_child(true); }},
      {"connection", connect_to_oneself},
      {"listens", listen_somewhere},
      {"udp", [] { made(socket(AF_INET, SOCK_DGRAM, 0), "socket"); }},
      {"tcp", [] { made(socket(AF_INET, SOCK_STREAM, 0), "socket"); }},
      {"breaks", [] { pthread_atfork([] { _exit(9); }, nullptr, nullptr); }},
      {"netlink", [] { made(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "socket"); }},
      {"inotify", [] { made(inotify_init(), "inotify"); }},
      {"timerfd", [] { made(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd"); }},
      {"timer",
       [] {
         signal(SIGALRM, [](int) { alarms = alarms + 1; });
         timer_t first, second;
         made(timer_create(CLOCK_MONOTONIC, nullptr, &first), "timer_create");
         made(timer_create(CLOCK_MONOTONIC, nullptr, &second), "timer_create");
         timer_delete(first);  // the number that is left is not the first one
         const itimerspec soon{{0, 0}, {0, 300000000}};
         timer_settime(second, 0, &soon, nullptr);
       }},
      {"open", read_from_somebody},
      {"event", [] { event_fd = made(eventfd(0, EFD_NONBLOCK), "eventfd"); }},
      {"pipe", [] { made(pipe2(pipe_ends, O_NONBLOCK), "pipe"); }},
      {"pair",
       [] { made(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair_ends), "pair"); }},
      {"epoll", watch_all},
      {"syslog", [] { openlog("points", LOG_NDELAY, LOG_USER); }},
      {"alarm",
       [] {
         signal(SIGALRM, [](int) { alarms = alarms + 1; });
         itimerval soon{{0, 0}, {0, 300000}};
         setitimer(ITIMER_REAL, &soon, nullptr);
       }},
      {"atfork",
       [] { pthread_atfork([] { ++prepared; }, [] { ++in_parent; }, [] { ++in_child; }); }},
      {"hook",
       [] { preforkd_after_fork([](void* count) { ++*static_cast<int*>(count); }, &hooks); }},
      {"fails", [] { preforkd_after_fork([](void*) { std::exit(4); }, nullptr); }},
      {"never",
       [] {
         for (;;) pause();
       }},
      {"dies", [] { std::exit(3); }},
      {"floods", flood},
      {"shuts",
       [] {
         for (int fd = 3; fd < 1024; ++fd) close(fd);
       }},
  };
  return all;
}

void prepare(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string step = argv[i];
    if (step == "says") {
      std::fprintf(stderr, "%s\n", argv[++i]);
    } else if (step == "file") {
      ++i;
      file = made(open(argv[i], O_RDONLY), argv[i]);
      line_of_file();
    } else if (step == "without") {
      be_without(static_cast<unsigned>(std::atoi(argv[++i])));
    } else if (!step.empty()) {
      steps().at(step)();
    }
  }
}

std::string full() {
  uint64_t one = 1, count = 0;
  std::string text;
  char bytes[64];
  auto add = [&](ssize_t size) { text += (text.empty() ? "" : " ") + std::to_string(size); };
  epoll_event events[8];
  if (event_fd >= 0) {
    if (write(event_fd, &one, sizeof one) < 0 || pipe_ends[0] < 0) return "no";
    if (write(pipe_ends[1], "x", 1) < 0 || write(pair_ends[1], "x", 1) < 0) return "no";
    if (epoll_fd >= 0) add(epoll_wait(epoll_fd, events, 8, 1000));
    if (read(event_fd, &count, sizeof count) < 0) return "no";
    add(static_cast<ssize_t>(count));
    add(read(pipe_ends[0], bytes, sizeof bytes));
    add(read(pair_ends[0], bytes, sizeof bytes));
  }
  return text;
}

std::string descriptors() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return std::to_string(count - 1);
}

// As pthread_getcpuclockid() makes it of the id that glibc has.
std::string thread() {
  clockid_t clock;
  timespec time;
  const bool works =
      pthread_getcpuclockid(pthread_self(), &clock) == 0 && clock_gettime(clock, &time) == 0;
  pthread_mutex_t mutex;
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ERRORCHECK);
  pthread_mutex_init(&mutex, &kind);
  pthread_mutex_lock(&mutex);
  const bool is_own = mutex.__data.__owner == gettid();
  return works && is_own ? "own" : "another's";
}

std::string answer(const std::string& order) {
  if (order == "pid") return std::to_string(getpid());
  if (order == "parent") return std::to_string(getppid());
  if (order == "group") return std::to_string(getpgrp());
  if (order == "thread") return thread();
  if (order == "line") return line_of_file();
  if (order == "full") return full();
  if (order == "descriptors") return descriptors();
  if (order == "atfork")
    return std::to_string(prepared) + " " + std::to_string(in_parent) + " " +
           std::to_string(in_child);
  if (order == "hook") return std::to_string(hooks);
  if (order == "preload") return std::getenv("LD_PRELOAD") ? std::getenv("LD_PRELOAD") : "none";
  if (order == "syslog") syslog(LOG_INFO, "from %d", getpid());
  if (order == "alarm")
    for (int i = 0; i < 100 && alarms == 0; ++i) usleep(50000);
  if (order == "alarm") return std::to_string(alarms);
  return "done";
}

}  // namespace

int main(int argc, char** argv) {
  prepare(argc, argv);
  preforkd_connection c;
  int got;
  while ((got = preforkd_accept(&c)) == 1) {
    std::string line;
    for (char next; read(c.fd, &next, 1) == 1;) {
      if (next != '\n') {
        line += next;
        continue;
      }
      const std::string said = answer(line) + "\n";
      if (line == "end" || write(c.fd, said.data(), said.size()) < 0) break;
      line.clear();
    }
    preforkd_done(1);
    close(c.fd);
  }
  if (got < 0) std::fprintf(stderr, "%s\n", preforkd_error());
  return got < 0;
}
