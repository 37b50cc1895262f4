#include "template/preloaded.h"

#include <alloca.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/program_environment.h"
#include "template/libc.h"
#include "template/loadable.h"

namespace preforkd {
namespace {

struct {
  pid_t process = 0;  // who stays preloaded
  std::string* library = nullptr;
  std::vector<std::string>* hidden = nullptr;  // "NAME=VALUE"
} preloaded;

// A child, which may share this memory (vfork), is not.
bool is_here_for() { return preloaded.process != 0 && syscall(SYS_getpid) == preloaded.process; }

std::string with_library(const char* others) {
  std::string value = *preloaded.library;
  if (others && *others) value.append(":").append(others);
  return value;
}

bool is_own(std::string_view entry) {
  const std::string_view name = entry.substr(0, entry.find('='));
  return name == kLibraryVariable || name == kWorkerVariable;
}

// Without libc's functions: shells have some of their own, which do nothing yet.
void take_away(bool hides_all) {
  const std::string ours = std::string(kPreloadVariable) + "=" + *preloaded.library;
  char** to = environ;
  for (char** from = environ; *from; ++from) {
    char* const entry = *from;
    if (hides_all && is_own(entry)) {
      preloaded.hidden->emplace_back(entry);
      continue;
    }
    if (std::string_view(entry).starts_with(ours)) {
      char* const name_end = entry + std::strlen(kPreloadVariable) + 1;
      const char* const others = entry + ours.size();
      if (*others != ':') continue;
      std::memmove(name_end, others + 1, std::strlen(others));
    }
    *to++ = entry;
  }
  *to = nullptr;
}

// The environment that another program is to have, and this object in it. That one may not be able to have it: here is the
// last that could say so.
class Environment {
 public:
  Environment(const char* file, char* const* given) {
    if (const std::string trouble = trouble_with_loading_into(file); !trouble.empty())
      log_to_pipe({LogLevel::kError,
                   {},
                   preloaded.process,
                   "libpreforkd cannot be loaded into " + std::string(file) + ": " + trouble,
                   {}});
    const std::string name = std::string(kPreloadVariable) + "=";
    const char* others = nullptr;
    for (; *given; ++given)
      if (std::string_view(*given).starts_with(name))
        others = *given + name.size();
      else
        pointers_.push_back(*given);
    entry_ = name + with_library(others);
    pointers_.push_back(entry_.data());
    for (std::string& entry : *preloaded.hidden) pointers_.push_back(entry.data());
    pointers_.push_back(nullptr);
  }
  char* const* get() const { return pointers_.data(); }

 private:
  std::string entry_;
  std::vector<char*> pointers_;
};

int execute(const char* path, char* const* argv, char* const* environment) {
  return static_cast<int>(syscall(SYS_execve, path, argv, environment));
}

// The arguments of execl(3) and its like, on the stack: it may be called where there is no heap to be had.
size_t count(va_list* arguments) {
  size_t all = 1;
  while (va_arg(*arguments, char*)) ++all;
  return all;
}

}  // namespace

void stay_preloaded(const char* library, bool hides_all) {
  preloaded.library = new std::string(library);
  preloaded.hidden = new std::vector<std::string>;
  preloaded.process = getpid();
  take_away(hides_all);
}

}  // namespace preforkd

using namespace preforkd;

PREFORKD_INSTEAD int execve(const char* path, char* const argv[], char* const environment[]) {
  if (!is_here_for() || !environment) return execute(path, argv, environment);
  return execute(path, argv, Environment(path, environment).get());
}

PREFORKD_INSTEAD int execvpe(const char* file, char* const argv[], char* const environment[]) {
  if (!is_here_for()) return PREFORKD_LIBC(execvpe)(file, argv, environment);
  return PREFORKD_LIBC(execvpe)(file, argv, Environment(file, environment).get());
}

PREFORKD_INSTEAD int fexecve(int fd, char* const argv[], char* const environment[]) {
  if (!is_here_for()) return PREFORKD_LIBC(fexecve)(fd, argv, environment);
  const std::string file = "/proc/self/fd/" + std::to_string(fd);
  return PREFORKD_LIBC(fexecve)(fd, argv, Environment(file.c_str(), environment).get());
}

PREFORKD_INSTEAD int execv(const char* path, char* const argv[]) {
  return execve(path, argv, environ);
}

PREFORKD_INSTEAD int execvp(const char* file, char* const argv[]) {
  return is_here_for() ? execvpe(file, argv, environ) : PREFORKD_LIBC(execvp)(file, argv);
}

// `call` has the list as `argv`.
#define PREFORKD_WITH_LIST(call)                                         \
  va_list arguments, again;                                              \
  va_start(arguments, first);                                            \
  va_copy(again, arguments);                                             \
  const size_t size = count(&again) + 1;                                 \
  va_end(again);                                                         \
  auto** const argv = static_cast<char**>(alloca(size * sizeof(char*))); \
  argv[0] = const_cast<char*>(first);                                    \
  for (size_t i = 1; i < size; ++i) argv[i] = va_arg(arguments, char*);  \
  call;                                                                  \
  va_end(arguments)

PREFORKD_INSTEAD int execl(const char* path, const char* first, ...) {
  int result;
  PREFORKD_WITH_LIST(result = execv(path, argv));
  return result;
}

PREFORKD_INSTEAD int execlp(const char* file, const char* first, ...) {
  int result;
  PREFORKD_WITH_LIST(result = execvp(file, argv));
  return result;
}

PREFORKD_INSTEAD int execle(const char* path, const char* first, ...) {
  int result;
  PREFORKD_WITH_LIST(result = execve(path, argv, va_arg(arguments, char* const*)));
  return result;
}
