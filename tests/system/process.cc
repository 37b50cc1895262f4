#include "tests/system/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "base/clock.h"
#include "base/error.h"
#include "tests/system/check.h"

namespace preforkd::system_test {
namespace {

[[noreturn]] void become(const Spawn& what) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  setsid();
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  dup2(what.in >= 0 ? what.in : null.get(), STDIN_FILENO);
  dup2(what.out >= 0 ? what.out : null.get(), STDOUT_FILENO);
  dup2(what.err >= 0 ? what.err : null.get(), STDERR_FILENO);
  if (what.in_child) what.in_child();
  std::vector<char*> arguments;
  for (const std::string& argument : what.argv)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  perror(arguments[0]);
  _exit(127);
}

struct Pipe {
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw SysError("make pipe", errno);
    read.reset(ends[0]);
    write.reset(ends[1]);
  }
  UniqueFd read, write;
};

// False: the deadline passed before both had ended.
bool read_both(int out, std::string& out_text, int err, std::string& err_text,
               Nanoseconds deadline) {
  pollfd fds[] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  std::string* texts[] = {&out_text, &err_text};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    Nanoseconds now = monotonic_now();
    if (now >= deadline) return false;
    poll(fds, 2, static_cast<int>((deadline - now) / kMillisecond) + 1);
    for (int i = 0; i < 2; ++i) {
      if (fds[i].fd < 0 || !fds[i].revents) continue;
      char buffer[16384];
      ssize_t got = read(fds[i].fd, buffer, sizeof buffer);
      if (got > 0) texts[i]->append(buffer, static_cast<size_t>(got));
      if (got == 0) fds[i].fd = -1;
    }
  }
  return true;
}

// Fields of /proc/PID/stat after the name, which may hold anything: state, parent.
bool read_stat(pid_t pid, char& state, pid_t& parent) {
  std::string line = file_text("/proc/" + std::to_string(pid) + "/stat");
  size_t end = line.rfind(')');
  return end != line.npos && std::sscanf(line.c_str() + end + 1, " %c %d", &state, &parent) == 2;
}

}  // namespace

std::string built(const std::string& name) {
  const char* folder = std::getenv("BUILD_DIR");
  return std::string(folder ? folder : "build/release") + "/" + name;
}

pid_t spawn(const Spawn& what) {
  pid_t pid = fork();
  if (pid < 0) throw SysError("fork " + what.argv[0], errno);
  if (pid == 0) become(what);
  return pid;
}

Outcome run(const std::vector<std::string>& argv, double seconds) {
  Outcome outcome;
  Pipe out, err;
  pid_t pid = spawn({.argv = argv, .out = out.write.get(), .err = err.write.get()});
  out.write.reset();
  err.write.reset();
  Nanoseconds deadline = monotonic_now() + from_seconds(seconds);
  bool ended = read_both(out.read.get(), outcome.out, err.read.get(), outcome.err, deadline);
  if (!ended) kill(pid, SIGKILL);
  outcome.code = exit_code(wait_for_child(pid, seconds));
  if (!ended)
    throw Failure("run " + argv[0] + ": not over after " + std::to_string(seconds) + " s");
  return outcome;
}

int wait_for_child(pid_t pid, double seconds) {
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.is_open()) throw SysError("pidfd_open " + std::to_string(pid), errno);
  pollfd over{pidfd.get(), POLLIN, 0};
  if (poll(&over, 1, static_cast<int>(seconds * 1000)) <= 0)
    throw Failure("process " + std::to_string(pid) + " has not ended");
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

int exit_code(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::vector<pid_t> children_of(pid_t parent) {
  std::string id = std::to_string(parent);
  std::istringstream pids(file_text("/proc/" + id + "/task/" + id + "/children"));
  return {std::istream_iterator<pid_t>(pids), {}};
}

std::vector<pid_t> own_children() { return children_of(getpid()); }

UniqueFd taken_from(pid_t pid, int fd) {
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  UniqueFd taken(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  if (!taken.is_open()) throw SysError("take descriptor " + std::to_string(fd), errno);
  return taken;
}

bool is_running(pid_t pid) {
  char state = 0;
  pid_t parent = 0;
  return read_stat(pid, state, parent) && state != 'Z' && state != 'X';
}

void let_go_on(pid_t pid) {
  char state = 0;
  pid_t parent = 0;
  if (read_stat(pid, state, parent) && state == 'T') kill(pid, SIGCONT);
}

std::string file_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string title_of(pid_t pid) {
  std::string title = file_text("/proc/" + std::to_string(pid) + "/cmdline");
  return title.substr(0, title.find('\0'));
}

std::string doing(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  std::string text = std::to_string(pid) + " " + title_of(pid);
  std::istringstream status(file_text(folder + "/status"));
  for (std::string line; std::getline(status, line);)
    for (const char* wanted : {"State:", "PPid:", "TracerPid:", "SigPnd:", "ShdPnd:", "SigBlk:"})
      if (line.starts_with(wanted)) text += "\n    " + line;
  std::error_code gone;
  for (const auto& task : std::filesystem::directory_iterator(folder + "/task", gone))
    text += "\n    " + task.path().filename().string() + ": system call " +
            file_text(task.path() / "syscall") + file_text(task.path() / "stack");
  return text;
}

}  // namespace preforkd::system_test
