// A program that the benchmark started, and ends: by its pidfd, in the destructor at the latest.
// Should the benchmark itself be killed, the kernel sends TERM to each (the parent-death signal).
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "bench/wait.h"

namespace preforkd::bench {

// What the measuring programs print: "name=value name=value".
using Figures = std::map<std::string, double>;

inline Figures parse_figures(const std::string& text) {
  Figures figures;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    size_t equals = word.find('=');
    if (equals == std::string::npos) throw std::runtime_error("read figures: " + text);
    figures[word.substr(0, equals)] = std::stod(word.substr(equals + 1));
  }
  return figures;
}

class Child {
 public:
  // argv[0] is the path of the program. Its stdout is read here, its stderr goes into the file
  // `log` ("": where ours goes).
  explicit Child(const std::vector<std::string>& argv, const std::string& log = "")
      : name_(argv[0].substr(argv[0].rfind('/') + 1)) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw SysError("pipe", errno);
    output_.reset(ends[0]);
    UniqueFd write_end(ends[1]);
    pid_ = fork();
    if (pid_ < 0) throw SysError("fork " + name_, errno);
    if (pid_ == 0) become(argv, log, write_end.get());
    pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    if (!pidfd_.is_open()) throw SysError("pidfd_open " + name_, errno);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { stop(); }

  pid_t pid() const { return pid_; }
  bool has_ended() { return !pidfd_.is_open() || readable(pidfd_.get(), 0); }

  std::string read_line(double seconds) {
    return read_output(seconds, [](const std::string& text) { return text.ends_with('\n'); });
  }

  // All that it printed, when it has ended well.
  std::string finish(double seconds) {
    std::string text = read_output(seconds, [](const std::string&) { return false; });
    int status = reap();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
      throw std::runtime_error(name_ + ": " +
                               (WIFSIGNALED(status)
                                    ? "killed by signal " + std::to_string(WTERMSIG(status))
                                    : "exit status " + std::to_string(WEXITSTATUS(status))));
    return text;
  }

  // TERM, 15 s to comply, KILL.
  void stop() {
    if (!pidfd_.is_open()) return;
    kill(pid_, SIGTERM);  // not reaped yet, so the pid is still its own
    Nanoseconds deadline = monotonic_now() + 15 * kSecond;
    while (!has_ended() && monotonic_now() < deadline) readable(pidfd_.get(), 100);
    kill(-pid_, SIGKILL);  // it, or what it left behind of its group; no effect if all have ended
    reap();
  }

 private:
  [[noreturn]] static void become(const std::vector<std::string>& argv, const std::string& log,
                                  int stdout_fd) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    // A server may end its whole process group (Apache does), and we are not of it. And each in a session of
    // its own: by session the kernel shares the processors out (autogroup), and preforkd's workers have theirs.
    setsid();
    dup2(stdout_fd, STDOUT_FILENO);
    if (!log.empty()) {
      int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
      if (fd >= 0) dup2(fd, STDERR_FILENO);
    }
    std::vector<char*> arguments;
    arguments.reserve(argv.size() + 1);
    for (const std::string& argument : argv)
      arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    perror(arguments[0]);
    _exit(127);
  }

  static bool readable(int fd, int milliseconds) {
    pollfd wanted{fd, POLLIN, 0};
    return poll(&wanted, 1, milliseconds) > 0;
  }

  template <class Enough>
  std::string read_output(double seconds, Enough enough) {
    std::string text;
    bool ended = false;
    wait_until(name_ + " has answered", seconds, [&] {
      while (!ended && !enough(text) && readable(output_.get(), 50)) {
        char buffer[4096];
        ssize_t got = read(output_.get(), buffer, sizeof buffer);
        if (got < 0 && errno != EINTR) throw SysError("read from " + name_, errno);
        if (got > 0) text.append(buffer, static_cast<size_t>(got));
        if (got == 0) ended = true;
      }
      return ended || enough(text);
    });
    return text;
  }

  int reap() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pidfd_.reset();
    return status;
  }

  std::string name_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;  // open as long as the child is not reaped
  UniqueFd output_;
};

// Runs a measuring program to its end.
inline Figures measure(const std::vector<std::string>& argv, double seconds = 120) {
  return parse_figures(Child(argv).finish(seconds));
}

}  // namespace preforkd::bench
