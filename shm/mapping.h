// One process's view of a segment (shm/region.h), read-write.
#pragma once

#include <algorithm>
#include <cstdint>

#include "shm/layout.h"

namespace preforkd::shm {

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
