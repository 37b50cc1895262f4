// What the unit tests share: suites as tables, processes that end with their test, a pool's segment.
// Nothing waits for time to pass: what must happen is waited for until kPatience, and that is a failure.
#pragma once

#include <CUnit/CUnit.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "shm/mapping.h"
#include "shm/region.h"

namespace preforkd::unit {

struct Test {
  const char* name;
  void (*run)();
};

template <size_t N>
void add_suite(const char* name, const Test (&tests)[N]) {
  CU_pSuite suite = CU_add_suite(name, nullptr, nullptr);
  for (const Test& test : tests) CU_add_test(suite, test.name, test.run);
}

// Compares and shows both where they differ: "not equal" alone helps nobody.
inline bool same_text(const std::string& got, const std::string& wanted) {
  if (got != wanted) std::printf("\n  wanted: %s\n  got:    %s\n", wanted.c_str(), got.c_str());
  return got == wanted;
}

inline constexpr Nanoseconds kPatience = 20 * kSecond;

// False: it did not come true in time. Yields the processor: tests have two, and the others' work to wait for.
template <class Condition>
bool eventually(Condition holds) {
  const Nanoseconds deadline = monotonic_now() + kPatience;
  while (!holds()) {
    if (monotonic_now() > deadline) return false;
    sched_yield();
  }
  return true;
}

// A child process that does `work`; killed and reaped at the end of its scope, or of the tests.
class Child {
 public:
  explicit Child(const std::function<bool()>& work) {
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ < 0) throw SysError("fork", errno);
    if (pid_ > 0) {
      pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
      return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent) _exit(1);
    _exit(work() ? 0 : 1);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Child(Child&& other) noexcept
      : pid_(std::exchange(other.pid_, 0)),
        pidfd_(std::move(other.pidfd_)),
        status_(other.status_) {}
  ~Child() {
    if (pid_ == 0) return;
    signal(SIGKILL);
    reap(0);
  }

  pid_t pid() const { return pid_; }
  void signal(int number) const { ::kill(pid_, number); }
  // Until it has ended; true if its work returned true.
  bool succeeded() { return ended() && WIFEXITED(status_) && WEXITSTATUS(status_) == 0; }
  bool ended() {
    if (pid_ == 0) return true;
    pollfd done{pidfd_.get(), POLLIN, 0};
    if (poll(&done, 1, static_cast<int>(kPatience / kMillisecond)) <= 0) return false;
    return reap(0);
  }
  // As if by an accident, and waited for.
  void kill() {
    signal(SIGKILL);
    ended();
  }

 private:
  bool reap(int flags) {
    if (waitpid(pid_, &status_, flags) != pid_) return false;
    pid_ = 0;
    return true;
  }

  pid_t pid_ = 0;
  UniqueFd pidfd_;
  int status_ = 0;
};

// A value that a test and its children share.
template <class T>
class Shared {
 public:
  Shared() {
    void* at = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw SysError("mmap", errno);
    value_ = new (at) T{};
  }
  ~Shared() { munmap(value_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }

 private:
  T* value_;
};

// The shared memory of a pool, as the daemon makes it and the supervisor maps it.
struct TestSegment {
  explicit TestSegment(uint32_t capacity = shm::kMinCapacity)
      : fds(shm::create_segment(capacity)), mapping(fds.read_write.get(), capacity) {}
  shm::SegmentFds fds;
  shm::Mapping mapping;
  shm::Segment& segment() const { return mapping.segment(); }
};

// A folder of its own, gone at the end with what is in it.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/preforkd-unit.XXXXXX";
    if (!mkdtemp(name)) throw SysError("mkdtemp", errno);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline size_t open_descriptors() {
  using std::filesystem::directory_iterator;
  return static_cast<size_t>(
      std::distance(directory_iterator("/proc/self/fd"), directory_iterator{}));
}

}  // namespace preforkd::unit
