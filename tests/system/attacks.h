// What code that runs as a pool's user tries on others: included by the handler and the program `trust`
// (handlers/trust.cc, programs/trust.cc), so that each seat can do the same. An order is a line, and is answered
// by one:
//
//   pid                 its pid
//   variable NAME       of its environment
//   reach PID...        tries to read, write or trace those processes, or to have their descriptors; answers with
//                       all that worked ("12:mem,fd"), or "nothing". `self`: a child of its own, where it should work
//   disturb PID...      tries what the kernel allows between processes of one user: signals, limits, priority
//   rights              sends a socket that cannot be closed at once along with a report, to whoever listens at any
//                       of its descriptors; answers how many took it
//   keep                makes a copy of each descriptor that leads to another process, for its children
//   kill PID SIGNAL     answers with errno
//   fill PATH           a file there, until the disk is full
//   spoil               nonsense into all memory that it shares with others, and tries to cut it; answers what it wrote
//                       and cut, in bytes
//   notify STATE        tells systemd, with a descriptor, as the service would ("READY=1,STATUS=mine"); or an errno
//   journal FIELDS      an entry in the journal, past preforkd ("PREFORKD_POOL=bob,MESSAGE=mine,"); or an errno
//   say MS              to its standard error without a pause, as severe as can be, and as if others said it; how often
//   leave NAME HOW      see attacks_left.h
//   hunt HOW MS         see attacks_hunt.h
#pragma once

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <istream>
#include <string>
#include <vector>

#include "base/attachment.h"
#include "base/clock.h"
#include "ipc/supervisor_messages.h"

namespace preforkd::system_test::attack {

constexpr int kMostFds = 256;
constexpr int kFirstKept = 100;

inline std::string proc(pid_t pid, const std::string& name) {
  return "/proc/" + std::to_string(pid) + "/" + name;
}

inline bool can_open(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

// --- reach ---------------------------------------------------------------------------------------

inline bool lists_descriptors(pid_t pid) {
  DIR* folder = opendir(proc(pid, "fd").c_str());
  if (!folder) return false;
  bool any = false;
  while (const dirent* entry = readdir(folder)) any |= entry->d_name[0] != '.';
  closedir(folder);
  return any;
}

inline bool takes_a_descriptor(pid_t pid) {
  const auto pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  bool any = false;
  for (int fd = 0; fd < 16 && pidfd >= 0; ++fd) {
    const auto taken = static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
    any |= taken >= 0;
    if (taken >= 0) close(taken);
  }
  if (pidfd >= 0) close(pidfd);
  return any;
}

inline bool opens_a_descriptor(pid_t pid) {
  for (int fd = 0; fd < 16; ++fd)
    if (can_open(proc(pid, "fd/" + std::to_string(fd)), O_RDONLY)) return true;
  return false;
}

// EFAULT: it was allowed, and nothing lies there.
inline bool may_copy(pid_t pid, bool to_it) {
  char byte = 0;
  iovec here{&byte, 1}, there{reinterpret_cast<void*>(8), 1};
  const long done =
      syscall(to_it ? SYS_process_vm_writev : SYS_process_vm_readv, pid, &here, 1, &there, 1, 0);
  return done >= 0 || errno == EFAULT;
}

inline bool may_compare(pid_t pid) {
  for (int what : {KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND})
    if (syscall(SYS_kcmp, getpid(), pid, what, 0, 0) >= 0) return true;
  return false;
}

inline bool follows_a_link(pid_t pid) {
  char to[512];
  for (const char* name : {"exe", "cwd", "root", "fd/3"})
    if (readlink(proc(pid, name).c_str(), to, sizeof to) >= 0) return true;
  return false;
}

inline bool has_robust_list(pid_t pid) {
  void* head = nullptr;
  size_t size = 0;
  return syscall(SYS_get_robust_list, pid, &head, &size) == 0;
}

struct Method {
  const char* name;
  std::function<bool(pid_t)> works;
};

inline const std::vector<Method>& methods_to_reach() {
  static const std::vector<Method> all = {
      {"ptrace", [](pid_t p) { return ptrace(PTRACE_SEIZE, p, 0, 0) == 0; }},
      {"pidfd_getfd", takes_a_descriptor},
      {"mem", [](pid_t p) { return can_open(proc(p, "mem"), O_RDWR); }},
      {"read_mem", [](pid_t p) { return can_open(proc(p, "mem"), O_RDONLY); }},
      {"process_vm_readv", [](pid_t p) { return may_copy(p, false); }},
      {"process_vm_writev", [](pid_t p) { return may_copy(p, true); }},
      {"kcmp", may_compare},
      {"fd", lists_descriptors},
      {"open_fd", opens_a_descriptor},
      {"link", follows_a_link},
      {"environ", [](pid_t p) { return can_open(proc(p, "environ"), O_RDONLY); }},
      {"auxv", [](pid_t p) { return can_open(proc(p, "auxv"), O_RDONLY); }},
      {"maps", [](pid_t p) { return can_open(proc(p, "maps"), O_RDONLY); }},
      {"map_files", [](pid_t p) { return can_open(proc(p, "map_files"), O_RDONLY | O_DIRECTORY); }},
      {"robust_list", has_robust_list},
  };
  return all;
}

// --- disturb -------------------------------------------------------------------------------------

inline bool may_signal_by_pidfd(pid_t pid) {
  const auto pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  const bool may = pidfd >= 0 && syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0) == 0;
  if (pidfd >= 0) close(pidfd);
  return may;
}

inline bool may_limit(pid_t pid) {
  rlimit limit{};
  return prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) == 0 &&
         prlimit(pid, RLIMIT_NOFILE, &limit, nullptr) == 0;
}

inline bool may_place(pid_t pid) {
  cpu_set_t cpus;
  return sched_getaffinity(pid, sizeof cpus, &cpus) == 0 &&
         sched_setaffinity(pid, sizeof cpus, &cpus) == 0;
}

// None of them changes anything where it is allowed.
inline const std::vector<Method>& methods_to_disturb() {
  static const std::vector<Method> all = {
      {"kill", [](pid_t p) { return kill(p, 0) == 0; }},
      {"tgkill", [](pid_t p) { return syscall(SYS_tgkill, p, p, 0) == 0; }},
      {"pidfd_send_signal", may_signal_by_pidfd},
      {"prlimit", may_limit},
      {"setaffinity", may_place},
      {"setpriority",
       [](pid_t p) {
         const auto id = static_cast<id_t>(p);
         return setpriority(PRIO_PROCESS, id, getpriority(PRIO_PROCESS, id)) == 0;
       }},
  };
  return all;
}

// In a supervisor each child's end is a signal.
inline ssize_t read_on(int fd, void* into, size_t size) {
  ssize_t n;
  do n = read(fd, into, size);
  while (n < 0 && errno == EINTR);
  return n;
}

inline void reap(pid_t child) {
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
}

// In a child, whose end lets go of what it traces.
inline std::string in_child(const std::function<std::string()>& attack) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    const std::string worked = attack();
    _exit(write(ends[1], worked.data(), worked.size()) < 0);
  }
  close(ends[1]);
  std::string worked;
  char buffer[256];
  for (ssize_t n; (n = read_on(ends[0], buffer, sizeof buffer)) > 0;)
    worked.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  reap(child);
  return worked;
}

inline std::string tried(pid_t target, const std::vector<Method>& methods) {
  return in_child([&] {
    std::string worked;
    for (const Method& method : methods)
      if (method.works(target)) worked += (worked.empty() ? "" : ",") + std::string(method.name);
    return worked;
  });
}

// Of an executable that everybody may read, so that it should be within reach.
inline std::string tried_on_own_child(const std::vector<Method>& methods) {
  const pid_t child = fork();
  if (child == 0) {
    execl("/bin/sleep", "sleep", "20", nullptr);
    _exit(127);
  }
  const timespec moment{0, 50'000'000};  // for its exec
  nanosleep(&moment, nullptr);
  std::string worked = tried(child, methods);
  kill(child, SIGKILL);
  reap(child);
  return worked;
}

// "12 34 self"
inline std::string try_all(std::istream& targets, const std::vector<Method>& methods) {
  std::string all;
  for (std::string target; targets >> target;) {
    const std::string worked =
        target == "self" ? tried_on_own_child(methods) : tried(std::stoi(target), methods);
    if (!worked.empty()) all += (all.empty() ? "" : " ") + target + ":" + worked;
  }
  return all.empty() ? "nothing" : all;
}

// --- rights --------------------------------------------------------------------------------------

inline int orders_come_by = -1;  // that one leads to who gives them

inline bool leads_to_a_process(int fd) {
  if (fd == orders_come_by) return false;
  struct stat status {};
  if (fstat(fd, &status) < 0) return false;
  if (S_ISFIFO(status.st_mode)) return true;
  int domain = 0, listens = 0;
  socklen_t size = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 || domain != AF_UNIX) return false;
  size = sizeof listens;
  getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
  return !listens;
}

inline std::vector<int> descriptors_to_others() {
  std::vector<int> all;
  for (int fd = 0; fd < kMostFds; ++fd)
    if (leads_to_a_process(fd)) all.push_back(fd);
  return all;
}

inline size_t keep_descriptors() {
  std::vector<int> all = descriptors_to_others();
  for (int fd : all) fcntl(fd, F_DUPFD, kFirstKept);
  return all.size();
}

inline void set_linger(int fd, int on, int seconds) {
  const linger how{on, seconds};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &how, sizeof how);
}

constexpr int kLinger = 3;  // seconds

// A connection with more unsent than its peer takes, which never reads: whoever closes it last waits.
// The peer lives as long as this process.
inline int slow_to_close() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), little = 1;
  setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* at = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  if (bind(listener, at, size) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, at, &size) < 0)
    return -1;
  const int slow = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(slow, SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
  if (connect(slow, at, size) < 0) return -1;
  const std::string much(65536, 'x');
  while (send(slow, much.data(), much.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
  }
  set_linger(slow, 1, kLinger);
  return slow;
}

// `right`: -1: none.
inline bool send_with(int to, int right) {
  Report report;  // an acknowledgement of nothing
  report.type = ReportType::kAck;
  if (right < 0) return send(to, &report, sizeof report, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
  iovec part{&report, sizeof report};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  Attachment along;
  along.attach(message, right);
  return sendmsg(to, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

// Who has it must be the last to close it: it is given away while the other one still sleeps, or has some more to
// read first. Where that goes wrong it is closed here, in kLinger.
inline std::string send_rights() {
  constexpr int kTries = 4, kBefore = 30;
  int sent = 0, made = 0;
  for (int fd : descriptors_to_others()) {
    for (int i = 0; i < kTries; ++i) {
      const int slow = slow_to_close();
      if (slow < 0) continue;
      ++made;
      for (int k = 0; k < kBefore && i > 0; ++k) send_with(fd, -1);
      const bool taken = send_with(fd, slow);
      if (!taken) set_linger(slow, 1, 0);
      close(slow);
      sent += taken;
    }
  }
  return std::to_string(sent) + " taken of " + std::to_string(made);
}

// --- the rest ------------------------------------------------------------------------------------

// The file stays open: its folder may be on a file system of this process only.
inline std::string fill(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const std::string much(65536, 'x');
  size_t written = 0;
  for (size_t piece = much.size(); fd >= 0 && piece > 0 && written < size_t{64} << 20;) {
    const ssize_t n = write(fd, much.data(), piece);
    if (n > 0)
      written += static_cast<size_t>(n);
    else
      piece /= 2;
  }
  return std::to_string(written);
}

// Of each segment of memory, and by each descriptor of one.
inline std::string spoil() {
  size_t written = 0, cut = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    char rights[5] = "";
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, rights) != 3) continue;
    if (rights[1] != 'w' || rights[3] != 's') continue;
    std::memset(reinterpret_cast<void*>(begin), 0xa5, end - begin);
    written += end - begin;
  }
  for (int fd = 0; fd < kMostFds; ++fd) {
    struct stat status {};
    if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &status) < 0) continue;
    if (ftruncate(fd, 0) == 0) cut += static_cast<size_t>(status.st_size);
  }
  return "wrote " + std::to_string(written) + ", cut " + std::to_string(cut);
}

// What has commas here has lines there.
inline std::string tell(const char* path, std::string lines, bool with_descriptor) {
  for (char& one : lines)
    if (one == ',') one = '\n';
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  iovec part{lines.data(), lines.size()};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = sizeof address;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  Attachment along;
  if (with_descriptor) along.attach(message, fd);
  const bool said = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
  const int error = errno;
  close(fd);
  return said ? "said" : std::to_string(error);
}

inline std::string say(uint64_t milliseconds) {
  const std::string text =
      "<0>spoken by alice\nPREFORKD_POOL=bob\npreforkd: pool bob: spoken by alice\n\xff\x1b[2J\n";
  const Nanoseconds end = monotonic_now() + static_cast<Nanoseconds>(milliseconds) * kMillisecond;
  uint64_t times = 0;
  while (monotonic_now() < end && write(2, text.data(), text.size()) >= 0) ++times;
  return std::to_string(times);
}

}  // namespace preforkd::system_test::attack
