#include "worker/executable.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <optional>
#include <string_view>

#include "base/fd.h"
#include "base/system_call.h"
#include "template/loadable.h"
#include "worker/serving_program.h"

namespace preforkd {
namespace {

constexpr int kDeepest = 5;  // scripts of scripts: the kernel's own bound

// Of execve(2): what is wrong with the file, and not with the way it was tried.
constexpr int kOfFile[] = {EACCES, EINVAL, EISDIR, ELIBBAD, ELOOP, ENOENT, ENOEXEC, ENOTDIR, EPERM};

// In a child, by system calls alone: from the limit on it gets no more memory. No argument but the name, and no
// environment: for more than a page of them there would be no room.
[[noreturn]] void try_to_execute(const char* file, int report) {
  const char* const arguments[] = {file, nullptr};
  const char* const none[] = {nullptr};
  const rlimit nothing{};
  long error = -system_call(SYS_prlimit64, 0, RLIMIT_CORE, &nothing, 0);
  if (error == 0) error = -system_call(SYS_prlimit64, 0, RLIMIT_AS, &nothing, 0);
  const bool is_limited = error == 0;
  if (is_limited) error = -system_call(SYS_execve, file, arguments, none);
  const int result = is_limited ? static_cast<int>(error) : 0;
  system_call(SYS_write, report, &result, sizeof result);
  system_call(SYS_exit_group, 0);
  __builtin_unreachable();
}

// An errno; 0: it can be executed, or that cannot be known.
int error_of_execution(const std::string& file) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return 0;
  const UniqueFd to_read(ends[0]);
  UniqueFd report(ends[1]);
  const pid_t child = fork();
  if (child == 0) try_to_execute(file.c_str(), report.get());
  report.reset();
  if (child < 0) return 0;
  int error = 0;
  if (read(to_read.get(), &error, sizeof error) != sizeof error) error = 0;
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return std::count(std::begin(kOfFile), std::end(kOfFile), error) ? error : 0;
}

// What stands behind "#!", as the kernel takes it apart.
struct FirstLine {
  std::string interpreter, argument;
  bool has_cr = false;
};

std::optional<FirstLine> first_line_of(const std::string& file) {
  constexpr size_t kMost = 256;  // the kernel looks no further
  constexpr std::string_view kBlanks = " \t";
  char text[kMost];
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const ssize_t size = fd.is_open() ? read(fd.get(), text, sizeof text) : -1;
  std::string_view line(text, size > 0 ? static_cast<size_t>(size) : 0);
  if (!line.starts_with("#!")) return std::nullopt;
  line = line.substr(2, std::min(line.find('\n'), line.size()) - 2);
  line.remove_prefix(std::min(line.find_first_not_of(kBlanks), line.size()));
  line = line.substr(0, line.find_last_not_of(kBlanks) + 1);
  FirstLine first;
  first.has_cr = line.ends_with('\r');
  const size_t end = std::min(line.find_first_of(kBlanks), line.size());
  first.interpreter = line.substr(0, end);
  line.remove_prefix(end);
  line.remove_prefix(std::min(line.find_first_not_of(kBlanks), line.size()));
  first.argument = line;
  return first;
}

// A CR is seen nowhere.
std::string named(std::string name, bool has_cr) {
  if (!has_cr || !name.ends_with('\r')) return name;
  name.pop_back();
  return name + " and a CR (its first line ends with CR LF)";
}

std::string trouble_of(const std::optional<FirstLine>& line, int error) {
  if (error == ENOEXEC)
    return line ? "its first line, \"#!\", names no interpreter"
                : "neither a binary for this machine nor a script that begins with \"#!\"";
  const std::string reason = std::strerror(error);
  if (line) return "its interpreter, " + named(line->interpreter, line->has_cr) + ": " + reason;
  return error == ENOENT ? "its loader: " + reason : reason;
}

// The kernel hands a CR on, at the end of the argument. Perl, and env -S, take it for a blank; shells, Python, Ruby do not.
std::string trouble_of_argument(const FirstLine& line) {
  if (!line.argument.ends_with('\r') || line.interpreter.find("perl") != std::string::npos ||
      line.argument.starts_with("-S") || line.argument.starts_with("--split-string"))
    return "";
  std::string argument = line.argument;
  argument.pop_back();
  return "its interpreter, " + line.interpreter + ", is given " + argument +
         " and a CR (its first line ends with CR LF)";
}

// What env(1) is to look for, if that is all it is told; "": it is none.
std::string name_for_env(const FirstLine& line) {
  const std::string& name = line.argument;
  if (line.interpreter != "/usr/bin/env" && line.interpreter != "/bin/env") return "";
  return name.empty() || name[0] == '-' || name.find('=') != name.npos ? "" : name;
}

// It looks when it runs, and that is too late, too.
std::string trouble_of_env(const FirstLine& line) {
  const std::string name = name_for_env(line);
  if (name.empty()) return "";
  const std::string file = find_program(name);
  const std::string reason = file.empty() ? "not found in $PATH" : access_trouble(file);
  if (reason.empty()) return "";
  return "its interpreter, " + named(name, line.has_cr) + ": " + reason;
}

// What the kernel, or env(1) in its place, executes for a script; itself, for a binary.
std::string binary_of(const std::string& file) {
  std::string binary = file;
  for (int i = 0; i < kDeepest; ++i) {
    const auto line = first_line_of(binary);
    if (!line) break;
    const std::string name = name_for_env(*line);
    binary = name.empty() ? line->interpreter : find_program(name);
  }
  return binary;
}

}  // namespace

std::string access_trouble(const std::string& file) {
  struct stat s {};
  if (stat(file.c_str(), &s) < 0) return std::strerror(errno);
  if (!S_ISREG(s.st_mode)) return "not a regular file";
  if (faccessat(AT_FDCWD, file.c_str(), X_OK, AT_EACCESS) < 0) return std::strerror(errno);
  return "";
}

std::string execution_trouble(const std::string& file) {
  if (const std::string trouble = access_trouble(file); !trouble.empty()) return trouble;
  const std::optional<FirstLine> line = first_line_of(file);
  if (const int error = error_of_execution(file)) return trouble_of(line, error);
  if (!line) return "";
  const std::string trouble = trouble_of_env(*line);
  return trouble.empty() ? trouble_of_argument(*line) : trouble;
}

std::string preloading_trouble(const std::string& file) {
  const std::string binary = binary_of(file), trouble = trouble_with_loading_into(binary);
  if (trouble.empty()) return "";
  return "libpreforkd cannot be loaded into " + binary + ": " + trouble;
}

}  // namespace preforkd
