// base/surroundings: what a process was started with is set right, and handed on as it was.
#include "base/surroundings.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "base/close_all_but.h"
#include "tests/unit/unit_test.h"
#include "worker/signals.h"

using namespace preforkd;

namespace {

bool holds(const std::function<bool()>& what) {
  unit::Child child(what);
  return child.succeeded();
}

bool is_null(int fd, int access) {
  struct stat open {
  }, null{};
  return fstat(fd, &open) == 0 && stat("/dev/null", &null) == 0 && open.st_rdev == null.st_rdev &&
         (fcntl(fd, F_GETFL) & O_ACCMODE) == access && fcntl(fd, F_GETFD) == 0;
}

void closed_descriptors() {
  for (int closed = 0; closed < 8; ++closed)
    CU_ASSERT(holds([closed] {
      int ends[2];
      if (pipe(ends) < 0) return false;
      for (int fd = 0; fd < 3; ++fd) closed >> fd & 1 ? close(fd) : dup2(ends[1], fd);
      put_surroundings_right();
      bool good = true;
      for (int fd = 0; fd < 3; ++fd)
        good &= is_null(fd, fd == 0 ? O_RDONLY : O_WRONLY) == !!(closed >> fd & 1);
      return good;
    }));
}

void ignore(int number) {
  const uint64_t action[8] = {reinterpret_cast<uint64_t>(SIG_IGN)};
  system_call(SYS_rt_sigaction, number, action, 0, kKernelSetSize);
}

uint64_t blocked_now() {
  uint64_t now = 0;
  system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, &now, kKernelSetSize);
  return now;
}

uint64_t pending_now() {
  uint64_t now = 0;
  system_call(SYS_rt_sigpending, &now, kKernelSetSize);
  return now;
}

// All of them, with 32 and 33, which libc keeps to itself.
void signals() {
  CU_ASSERT(holds([] {
    for (int number = 1; number < NSIG; ++number) ignore(number);
    block_exactly(~uint64_t{0});
    put_surroundings_right({SIGHUP});
    for (int number = 1; number < NSIG; ++number)
      if (is_ignored(number)) return false;
    return blocked_now() == signal_bit(SIGHUP);
  }));
  CU_ASSERT(holds([] {
    block_exactly(~uint64_t{0});
    for (int number : {SIGUSR1, SIGALRM, SIGTERM, 40, SIGHUP}) kill(getpid(), number);
    put_surroundings_right({SIGHUP});
    return pending_now() == signal_bit(SIGHUP);  // and the others have ended nobody
  }));
  CU_ASSERT(holds([] {
    signal(SIGCHLD, SIG_IGN);
    put_surroundings_right();
    int status = 0;
    const pid_t child = fork();
    if (child == 0) _exit(7);
    return waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7;
  }));
}

void an_alarm() {
  CU_ASSERT(holds([] {
    alarm(1000);
    put_surroundings_right();
    return alarm(0) == 0;
  }));
}

mode_t mask_now() {
  const mode_t now = umask(0);
  umask(now);
  return now;
}

rlim_t soft_now() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

void handed_on() {
  for (const mode_t before : {0u, 077u, 0777u})
    CU_ASSERT(holds([before] {
      umask(before);
      have_own_files();
      bool good = mask_now() == 022;
      hand_on_surroundings();
      good &= mask_now() == before;
      take_surroundings_back();
      return good && mask_now() == 022;
    }));
  CU_ASSERT(holds([] {
    const rlimit before{64, 512};
    setrlimit(RLIMIT_NOFILE, &before);
    put_surroundings_right();
    bool good = soft_now() == 512 && inherited_nofile().rlim_cur == 64 &&
                inherited_nofile().rlim_max == 512;
    hand_on_surroundings();
    good &= soft_now() == 64;
    take_surroundings_back();
    return good && soft_now() == 512;
  }));
  CU_ASSERT(holds([] {  // what is made in memory is a file to the kernel
    const rlimit before{4096, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &before);
    have_own_files();
    const UniqueFd file(memfd_create("unit", MFD_CLOEXEC));
    bool good = ftruncate(file.get(), 1 << 20) == 0;
    good &= ftruncate(file.get(), (1 << 20) + 1) < 0 && errno == EFBIG;  // and no signal
    hand_on_surroundings();
    rlimit after{};
    getrlimit(RLIMIT_FSIZE, &after);
    return good && after.rlim_cur == 4096 && after.rlim_max == 1 << 20;
  }));
  CU_ASSERT(holds([] {  // nothing was put right, and nothing is put back
    const rlim_t soft = soft_now();
    umask(027);
    hand_on_surroundings();
    take_surroundings_back();
    return soft_now() == soft && mask_now() == 027 && inherited_nofile().rlim_cur == soft;
  }));
}

// Where close_range(2) is not to be had: only those that are open, whatever the limit is.
void closes_each() {
  CU_ASSERT(holds([] {
    const int null = open("/dev/null", O_RDONLY);
    for (int fd = 10; fd < 20; ++fd) dup2(null, fd);
    close_each_between(12, 17);
    bool good = true;
    for (int fd = 10; fd < 20; ++fd) good &= (fcntl(fd, F_GETFD) >= 0) == (fd < 12 || fd > 17);
    return good;
  }));
}

}  // namespace

void add_surroundings_tests() {
  static const unit::Test kTests[] = {
      {"closed descriptors", closed_descriptors},
      {"signals", signals},
      {"an alarm", an_alarm},
      {"what is handed on", handed_on},
      {"descriptors closed one by one", closes_each},
  };
  unit::add_suite("surroundings", kTests);
}
