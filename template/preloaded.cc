#include "template/preloaded.h"

#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/program_environment.h"

namespace preforkd {
namespace {

struct {
  pid_t process = 0;  // who stays preloaded
  std::string* library = nullptr;
} preloaded;

// A child, which may share this memory (vfork), is not.
bool is_here_for() { return preloaded.process != 0 && syscall(SYS_getpid) == preloaded.process; }

std::string with_library(const char* others) {
  std::string value = *preloaded.library;
  if (others && *others) value.append(":").append(others);
  return value;
}

void put_back() {
  setenv(kPreloadVariable, with_library(std::getenv(kPreloadVariable)).c_str(), 1);
}

void take_away() {
  const char* value = std::getenv(kPreloadVariable);
  if (!value || std::strncmp(value, preloaded.library->c_str(), preloaded.library->size()) != 0)
    return;
  const std::string others = value + preloaded.library->size();
  if (others.empty())
    unsetenv(kPreloadVariable);
  else
    setenv(kPreloadVariable, others.c_str() + 1, 1);
}

// The environment that another program is to have, and this object in it.
class Environment {
 public:
  explicit Environment(char* const* given) {
    const std::string name = std::string(kPreloadVariable) + "=";
    const char* others = nullptr;
    for (; *given; ++given)
      if (std::string_view(*given).starts_with(name))
        others = *given + name.size();
      else
        pointers_.push_back(*given);
    entry_ = name + with_library(others);
    pointers_.push_back(entry_.data());
    pointers_.push_back(nullptr);
  }
  char* const* get() const { return pointers_.data(); }

 private:
  std::string entry_;
  std::vector<char*> pointers_;
};

template <class Function>
Function* next_of(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

int execute(const char* path, char* const* argv, char* const* environment) {
  return static_cast<int>(syscall(SYS_execve, path, argv, environment));
}

// `run` executes another program with `environ`; it returns if that fails.
template <class Run>
int with_own_environment(Run run) {
  if (!is_here_for()) return run();
  put_back();
  const int result = run();
  const int error = errno;
  take_away();
  errno = error;
  return result;
}

// Of execl(3) and its like; `arguments` is behind the first.
std::vector<char*> list_of(const char* first, va_list* arguments) {
  std::vector<char*> all{const_cast<char*>(first)};
  while (all.back()) all.push_back(va_arg(*arguments, char*));
  return all;
}

}  // namespace

void stay_preloaded(const char* library) {
  preloaded.library = new std::string(library);
  preloaded.process = getpid();
  take_away();
}

}  // namespace preforkd

#define PREFORKD_INSTEAD extern "C" __attribute__((visibility("default")))

using namespace preforkd;

PREFORKD_INSTEAD int execve(const char* path, char* const argv[], char* const environment[]) {
  if (!is_here_for() || !environment) return execute(path, argv, environment);
  return execute(path, argv, Environment(environment).get());
}

PREFORKD_INSTEAD int execvpe(const char* file, char* const argv[], char* const environment[]) {
  static const auto next = next_of(&execvpe, "execvpe");
  if (!is_here_for()) return next(file, argv, environment);
  return next(file, argv, Environment(environment).get());
}

PREFORKD_INSTEAD int fexecve(int fd, char* const argv[], char* const environment[]) {
  static const auto next = next_of(&fexecve, "fexecve");
  if (!is_here_for()) return next(fd, argv, environment);
  return next(fd, argv, Environment(environment).get());
}

PREFORKD_INSTEAD int execv(const char* path, char* const argv[]) {
  return with_own_environment([&] { return execute(path, argv, environ); });
}

PREFORKD_INSTEAD int execvp(const char* file, char* const argv[]) {
  static const auto next = next_of(&execvp, "execvp");
  return with_own_environment([&] { return next(file, argv); });
}

PREFORKD_INSTEAD int execl(const char* path, const char* first, ...) {
  va_list arguments;
  va_start(arguments, first);
  const std::vector<char*> argv = list_of(first, &arguments);
  va_end(arguments);
  return execv(path, argv.data());
}

PREFORKD_INSTEAD int execlp(const char* file, const char* first, ...) {
  va_list arguments;
  va_start(arguments, first);
  const std::vector<char*> argv = list_of(first, &arguments);
  va_end(arguments);
  return execvp(file, argv.data());
}

PREFORKD_INSTEAD int execle(const char* path, const char* first, ...) {
  va_list arguments;
  va_start(arguments, first);
  const std::vector<char*> argv = list_of(first, &arguments);
  char* const* environment = va_arg(arguments, char* const*);
  va_end(arguments);
  return execve(path, argv.data(), environment);
}
