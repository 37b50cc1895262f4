#include "control/tick_bell.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "base/clock.h"
#include "base/error.h"
#include "shm/layout.h"

namespace preforkd {
namespace {

constexpr size_t kStack = 64 * 1024;  // of which three small frames are used
constexpr size_t kPage = 4096;
static_assert(offsetof(shm::Segment, shared) + sizeof(shm::Shared) <= kPage);

// Returns the error, or 0 when woken.
int futex_wait(const void* word, uint32_t expected, int flags) {
  return syscall(SYS_futex, word, FUTEX_WAIT | flags, expected, nullptr, nullptr, 0) < 0 ? errno
                                                                                         : 0;
}
void futex_wake(const void* word, int flags) {
  syscall(SYS_futex, word, FUTEX_WAKE | flags, INT_MAX, nullptr, nullptr, 0);
}

// A thread that takes no signal: they are for the main thread.
int create_quiet_thread(pthread_t* thread, void* (*run)(void*), void* argument) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(thread, &attributes, run, argument);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return error;
}

}  // namespace

TickBell::TickBell(int segment, int eventfd) : eventfd_(eventfd) {
  page_ = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, segment, 0);
  if (page_ == MAP_FAILED) throw SysError("mmap a pool's memory", errno);
  if (int error = create_quiet_thread(&thread_, run, this)) {
    munmap(page_, kPage);
    throw SysError("pthread_create", error);
  }
}

// The memory is read-only here, so that the word that the thread waits for cannot be changed to end
// its wait; but it may be woken without. A wake-up that comes just before it begins to wait is lost,
// so they are repeated until the thread is seen to have ended.
TickBell::~TickBell() {
  order_.store(kEnd, std::memory_order_release);
  constexpr timespec kSoon = {0, 50 * kMicrosecond};
  do {
    futex_wake(&order_, FUTEX_PRIVATE_FLAG);
    futex_wake(tick(), 0);
    nanosleep(&kSoon, nullptr);
  } while (pthread_tryjoin_np(thread_, nullptr) == EBUSY);
  munmap(page_, kPage);
}

void TickBell::arm(uint32_t seen) {
  if (order_.load(std::memory_order_acquire) == kWatch) return;
  seen_ = seen;
  order_.store(kWatch, std::memory_order_release);
  futex_wake(&order_, FUTEX_PRIVATE_FLAG);
}

void* TickBell::tick() const {
  return static_cast<char*>(page_) + offsetof(shm::Segment, shared.tick);
}

void* TickBell::run(void* self) {
  static_cast<TickBell*>(self)->listen();
  return nullptr;
}

bool TickBell::wait_until_armed() {
  for (;;) {
    uint32_t order = order_.load(std::memory_order_acquire);
    if (order != kRest) return order == kWatch;
    futex_wait(&order_, kRest, FUTEX_PRIVATE_FLAG);
  }
}

void TickBell::listen() {
  while (wait_until_armed()) {
    int error = futex_wait(tick(), seen_, 0);
    if (error == EINTR) continue;
    // Woken, or the word was another already (EAGAIN). Whoever is woken for nothing (a worker may ring
    // as it likes) looks once more, and nothing worse comes of it.
    if (error != 0 && error != EAGAIN) return;  // the memory is gone: this segment rings no more
    uint32_t watch = kWatch;
    if (!order_.compare_exchange_strong(watch, kRest, std::memory_order_acq_rel)) return;
    rung_.store(true, std::memory_order_release);
    uint64_t one = 1;
    [[maybe_unused]] ssize_t ignored = write(eventfd_, &one, sizeof one);  // full: it is readable
  }
}

}  // namespace preforkd
