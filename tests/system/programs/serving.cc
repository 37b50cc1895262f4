// serving: a program that accepts by itself, through libpreforkd. Each line of a client is an order, and is answered
// by a line:
//
//   pid · number · peer · local · pool · settings     what libpreforkd says
//   note TEXT   extend MS   recycle   log TEXT        as preforkd/serve.h has them
//   descriptors                                       those that a program which it starts would have
//   blocked                                           the signals that it has blocked
//   child                                             what preforkd_accept() says in a child of it
//   fail     ends the connection as failed            untold   ... without preforkd_done()
//   exit N   exits with N in the midst of it          leave    exits with 0 after it
//   shut     closes the connection's descriptor      replace  ... and has a Unix socket whose peer is gone in its place
//   hang     answers nothing any more                 later    is recycled, which it asks for after it
//   thread   what preforkd_accept() says in another thread than the main one
//
// Argument: `never` calls in, `ends` before it would, `shuts` all descriptors before that, `worn`: asks to be recycled
// before its first, `again`: asks on when it was told to leave, and logs what it gets.
#include <dirent.h>
#include <fcntl.h>
#include <preforkd/serve.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

bool leaves = false, asks_later = false, fails = false, tells = true;

std::string inheritable_descriptors() {
  std::vector<int> all;
  DIR* folder = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(folder)) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != dirfd(folder) && !(fcntl(fd, F_GETFD) & FD_CLOEXEC))
      all.push_back(fd);
  }
  closedir(folder);
  std::sort(all.begin(), all.end());
  std::string text;
  for (int fd : all) text += (text.empty() ? "" : " ") + std::to_string(fd);
  return text;
}

std::string blocked_signals() {
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  std::string text;
  for (int number = 1; number < NSIG; ++number)
    if (sigismember(&blocked, number) == 1)
      text += (text.empty() ? "" : " ") + std::string(sigabbrev_np(number));
  return text;
}

std::string said_to_a_child() {
  int ends[2];
  if (pipe(ends) < 0) return "no pipe";
  const pid_t pid = fork();
  if (pid == 0) {
    preforkd_connection c;
    preforkd_done(0);  // of the connection that is its parent's
    preforkd_note("a child's");
    std::string said = preforkd_accept(&c) == -1 && errno == EPERM ? preforkd_error() : "accepted";
    _exit(write(ends[1], said.data(), said.size()) < 0);
  }
  close(ends[1]);
  char said[256];
  const ssize_t size = read(ends[0], said, sizeof said);
  close(ends[0]);
  waitpid(pid, nullptr, 0);
  return std::string(said, size > 0 ? static_cast<size_t>(size) : 0);
}

std::string said_to_a_thread() {
  std::string said;
  std::thread([&said] {
    preforkd_connection c;
    said = preforkd_accept(&c) == -1 ? preforkd_error() : "accepted";
  }).join();
  return said;
}

// And it has failed.
void give_up(int fd, bool replaced) {
  fails = true;
  close(fd);
  int pair[2];
  if (!replaced || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) return;
  if (pair[0] != fd) std::abort();  // the lowest one that is free
  close(pair[1]);
}

std::string obey(const preforkd_connection& c, const std::string& line) {
  const size_t space = line.find(' ');
  const std::string order = line.substr(0, space),
                    rest = space == line.npos ? "" : line.substr(space + 1);
  if (order == "pid") return std::to_string(getpid());
  if (order == "number") return std::to_string(c.number);
  if (order == "peer") return preforkd_peer();
  if (order == "local") return preforkd_local();
  if (order == "pool") return preforkd_pool();
  if (order == "settings") return preforkd_settings();
  if (order == "note") preforkd_note(rest.c_str());
  if (order == "extend") preforkd_extend(static_cast<uint32_t>(std::atol(rest.c_str())));
  if (order == "recycle") preforkd_recycle();
  if (order == "log") preforkd_log(6, rest.c_str());
  if (order == "descriptors") return inheritable_descriptors();
  if (order == "blocked") return blocked_signals();
  if (order == "child") return said_to_a_child();
  if (order == "exit") std::exit(std::atoi(rest.c_str()));
  if (order == "thread") return said_to_a_thread();
  if (order == "leave") leaves = true;
  if (order == "later") asks_later = true;
  if (order == "fail") fails = true;
  if (order == "untold") tells = false;
  if (order == "shut" || order == "replace") give_up(c.fd, order == "replace");
  while (order == "hang") pause();
  return "done";
}

void serve(const preforkd_connection& c) {
  std::string line;
  fails = false;
  tells = true;
  for (char next; !fails && tells && read(c.fd, &next, 1) == 1;) {
    if (next != '\n') {
      line += next;
      continue;
    }
    const std::string answer = obey(c, line) + "\n";
    if (fails && line != "fail") return;  // there is nobody to answer
    if (write(c.fd, answer.data(), answer.size()) < 0) return;
    line.clear();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  while (how == "never") pause();
  if (how == "ends") return 0;
  if (how == "shuts")
    for (int fd = 3; fd < 64; ++fd) close(fd);
  if (how == "worn") preforkd_recycle();
  preforkd_connection c;
  int got;
  while ((got = preforkd_accept(&c)) == 1) {
    serve(c);
    if (tells) preforkd_done(!fails);
    close(c.fd);
    if (leaves) return 0;
    if (asks_later) preforkd_recycle();
  }
  if (how == "again")
    preforkd_log(6, ("asked again: " + std::to_string(preforkd_accept(&c))).c_str());
  if (got < 0) preforkd_log(3, preforkd_error());
  return got < 0;
}
