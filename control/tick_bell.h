// Hears the `tick` bell of one segment (shm/layout.h: Shared): a small thread that waits for the futex
// and then writes to an eventfd, once for each time it is armed. A futex has no descriptor, hence the
// thread; armed once at a time, because a worker gone mad could ring without end.
//
// The thread maps the page that holds Shared, read-only, and touches it by no instruction of its own:
// only the kernel looks there. A segment cut short is then EFAULT from futex(2) and never a SIGBUS.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace preforkd {

class TickBell {
 public:
  // Both descriptors are borrowed: the segment's only here, the eventfd as long as this lives. Throws
  // SysError.
  TickBell(int segment, int eventfd);
  ~TickBell();
  TickBell(const TickBell&) = delete;
  TickBell& operator=(const TickBell&) = delete;

  // Ring once as soon as `tick` is not `seen`. Without effect while it is armed already: what it was
  // armed with then still stands, or it is about to ring.
  void arm(uint32_t seen);
  // Whether it has rung since the last time this was asked.
  bool take_ring() { return rung_.exchange(false, std::memory_order_acquire); }

 private:
  static void* run(void* self);
  void listen();
  bool wait_until_armed();
  void* tick() const;

  const int eventfd_;
  void* page_ = nullptr;
  pthread_t thread_{};
  uint32_t seen_ = 0;  // written by arm() before `order_`, read by the thread after it

  // Written by the owner (kWatch, kEnd) and by the thread (kRest, from kWatch alone).
  enum Order : uint32_t { kRest, kWatch, kEnd };
  std::atomic<uint32_t> order_{kRest};
  std::atomic<bool> rung_{false};  // set by the thread, taken by the owner
};

}  // namespace preforkd
