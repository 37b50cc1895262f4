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
  bool is_put_right = false, has_own_umask = false;
  mode_t umask = 0;
  rlim_t soft_nofile = 0, raised_nofile = 0;
} remembered;

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

void set_soft_nofile(rlim_t soft) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || soft > limit.rlim_max) return;
  limit.rlim_cur = soft;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

void put_surroundings_right(std::initializer_list<int> kept) {
  occupy_standard_descriptors();
  const itimerval none{};
  for (const auto which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF})
    setitimer(which, &none, nullptr);
  reset_signals(kept);
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  remembered.soft_nofile = limit.rlim_cur;
  remembered.raised_nofile = limit.rlim_max;
  remembered.is_put_right = true;
  set_soft_nofile(remembered.raised_nofile);
}

void have_own_umask() {
  remembered.umask = umask(kOwnUmask);
  remembered.has_own_umask = true;
}

rlimit inherited_nofile() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (remembered.is_put_right) limit.rlim_cur = remembered.soft_nofile;
  return limit;
}

void hand_on_surroundings() {
  if (remembered.has_own_umask) umask(remembered.umask);
  if (remembered.is_put_right) set_soft_nofile(remembered.soft_nofile);
}

void take_surroundings_back() {
  if (remembered.has_own_umask) umask(kOwnUmask);
  if (remembered.is_put_right) set_soft_nofile(remembered.raised_nofile);
}

}  // namespace preforkd
