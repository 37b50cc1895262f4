#include "base/surroundings.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>

#include "base/error.h"
#include "base/system_call.h"

namespace preforkd {
namespace {

constexpr mode_t kOwnUmask = 022;

struct {
  bool has_own_umask = false;
  mode_t umask = 0;
} remembered;

struct SoftLimit {
  const decltype(RLIMIT_NOFILE) resource;
  bool is_raised = false;
  rlim_t soft = 0, raised = 0;
};
SoftLimit nofile{RLIMIT_NOFILE}, fsize{RLIMIT_FSIZE};

// What opens a file gets the lowest number that is free: those below are open by then.
void occupy_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY) != fd)
      _exit(static_cast<int>(ExitCode::kSystem));
}

// As the kernel has them: libc's own refuse 32 and 33, which posix_spawn(3) leaves ignored.
constexpr long kSetSize = 8;
constexpr uint64_t bit_of(int number) { return uint64_t{1} << (number - 1); }

struct Action {
  uint64_t words[8] = {};  // the handler comes first

  bool is_to_ignore() const { return words[0] == reinterpret_cast<uint64_t>(SIG_IGN); }
};
constexpr Action kDefault{};

Action action_of(int number) {
  Action action;
  system_call(SYS_rt_sigaction, number, 0, action.words, kSetSize);
  return action;
}

void set_action(int number, const Action& action) {
  system_call(SYS_rt_sigaction, number, action.words, 0, kSetSize);
}

void throw_away(int number, const Action& before) {
  Action ignore;
  ignore.words[0] = reinterpret_cast<uint64_t>(SIG_IGN);
  set_action(number, ignore);
  set_action(number, before);
}

// What is pending was meant for what this process was before its exec. (A handler is of our own: of a sanitizer.)
void reset_signals(std::initializer_list<int> kept) {
  const uint64_t all = ~uint64_t{0};
  uint64_t blocked = 0, pending = 0;
  for (const int number : kept) blocked |= bit_of(number);
  system_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, kSetSize);
  system_call(SYS_rt_sigpending, &pending, kSetSize);
  for (int number = 1; number < NSIG; ++number) {
    const Action before = action_of(number);
    const Action& after = before.is_to_ignore() ? kDefault : before;
    if (pending & bit_of(number) & ~blocked)
      throw_away(number, after);
    else if (before.is_to_ignore())
      set_action(number, after);
  }
  system_call(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, 0, kSetSize);
}

// Unless somebody has set it to something else on purpose.
void change(const SoftLimit& of, rlim_t from, rlim_t to) {
  rlimit limit{};
  if (!of.is_raised || getrlimit(of.resource, &limit) < 0 || limit.rlim_cur != from ||
      to > limit.rlim_max)
    return;
  limit.rlim_cur = to;
  setrlimit(of.resource, &limit);
}

void raise_to_hard(SoftLimit& one) {
  rlimit limit{};
  if (getrlimit(one.resource, &limit) < 0) return;
  one.soft = limit.rlim_cur;
  one.raised = limit.rlim_max;
  one.is_raised = true;
  change(one, one.soft, one.raised);
}

}  // namespace

void put_surroundings_right(std::initializer_list<int> kept) {
  occupy_standard_descriptors();
  const itimerval none{};
  for (const auto which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF})
    setitimer(which, &none, nullptr);
  reset_signals(kept);
  raise_to_hard(nofile);
}

// (Beyond the hard limit a write fails then, and can say so, where SIGXFSZ would end the process.)
void have_own_files() {
  remembered.umask = umask(kOwnUmask);
  remembered.has_own_umask = true;
  raise_to_hard(fsize);
  signal(SIGXFSZ, SIG_IGN);
}

RoomForLargeFile::RoomForLargeFile() : action_(signal(SIGXFSZ, SIG_IGN)) {
  getrlimit(RLIMIT_FSIZE, &before_);
  const rlimit most{before_.rlim_max, before_.rlim_max};
  setrlimit(RLIMIT_FSIZE, &most);
}

RoomForLargeFile::~RoomForLargeFile() {
  setrlimit(RLIMIT_FSIZE, &before_);
  signal(SIGXFSZ, action_);
}

rlimit inherited_nofile() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (nofile.is_raised) limit.rlim_cur = nofile.soft;
  return limit;
}

void hand_on_surroundings() {
  if (remembered.has_own_umask) umask(remembered.umask);
  for (const SoftLimit* one : {&nofile, &fsize}) change(*one, one->raised, one->soft);
}

void take_surroundings_back() {
  if (remembered.has_own_umask) umask(kOwnUmask);
  for (const SoftLimit* one : {&nofile, &fsize}) change(*one, one->soft, one->raised);
}

}  // namespace preforkd
