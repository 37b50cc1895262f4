// One segment of shared memory: made by the daemon, mapped by one supervisor and, over fork, by its workers. It is a
// memfd: it has no name that a crash could leave, and whoever fills /dev/shm takes nothing from it. Its size is sealed,
// so that nobody who maps it can be hurt by another who truncates it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/fd.h"
#include "shm/layout.h"

namespace preforkd::shm {

struct SegmentFds {
  UniqueFd read_write;  // for the supervisor, which maps it and closes it before it forks
  UniqueFd read_only;   // for control; opened read-only, so that it cannot be mapped writable
};

// Called by the daemon. All of its pages are allocated here (posix_fallocate): no memory to be had is an error now
// and not a SIGBUS in a worker later. Throws SysError "allocate N bytes of shared memory: ...".
SegmentFds create_segment(uint32_t capacity);

// The read-write mapping. Called by the supervisor, and by libpreforkd; workers inherit it.
class Mapping {
 public:
  // Throws SysError, or std::runtime_error if the descriptor's size is not that of `capacity` slots.
  Mapping(int read_write_fd, uint32_t capacity);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // What the mapping's own process knows of its size; never read from the memory itself.
  uint32_t capacity() const { return capacity_; }
  // How many words of Bits may hold a live slot: what the supervisor published, within that size.
  uint32_t scan_words() const {
    return std::min(segment().published.scan_words.load(), capacity_ / kSlotsPerWord);
  }
  Segment& segment() const { return *reinterpret_cast<Segment*>(base_); }
  Bits& bits(uint32_t word) const { return reinterpret_cast<Bits*>(base_ + bits_offset())[word]; }
  Slot& slot(uint32_t index) const {
    return reinterpret_cast<Slot*>(base_ + slots_offset(capacity_))[index];
  }
  Admission& admission(uint32_t slot) const {
    return reinterpret_cast<Admission*>(base_ + admissions_offset(capacity_))[slot];
  }
  Decision& decision(uint64_t number) const {
    return reinterpret_cast<Decision*>(base_ + decisions_offset(capacity_))[number % kDecisions];
  }

 private:
  char* base_;
  uint32_t capacity_;
};

}  // namespace preforkd::shm
