// What the descriptors of this process are to us, by their numbers.
#pragma once

#include <atomic>
#include <cstdint>

namespace preforkd {

enum class DescriptorKind : uint8_t {
  kProgram = 0,  // the program's own
  kListen,       // the listen socket that it was given, or a copy
  kConnection,   // what it has accepted, or a copy
  kEpoll,        // an epoll instance in which it waits for the listen socket
  kPreforkd      // it must not close
};

// One in a process; any thread may look and note. Numbers from kMost on are the program's own.
class DescriptorNumbers {
 public:
  static constexpr int kMost = 65536;

  DescriptorKind operator[](int fd) const {
    return is_within(fd) ? kinds_[fd].load(std::memory_order_relaxed) : DescriptorKind::kProgram;
  }
  void set(int fd, DescriptorKind kind) {
    if (is_within(fd)) kinds_[fd].store(kind, std::memory_order_relaxed);
  }

 private:
  static bool is_within(int fd) { return fd >= 0 && fd < kMost; }
  std::atomic<DescriptorKind> kinds_[kMost] = {};  // (pages that are not touched cost nothing)
};

}  // namespace preforkd
