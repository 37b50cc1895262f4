// One segment of shared memory: made by the daemon, mapped by one supervisor and, over fork, by its workers. It is a
// memfd: it has no name that a crash could leave, and whoever fills /dev/shm takes nothing from it. Its size is sealed,
// so that nobody who maps it can be hurt by another who truncates it.
//
// All that the daemon knows of shared memory: how large a segment is, and which version its layout has.
#pragma once

#include <cstdint>

#include "base/fd.h"

namespace preforkd::shm {

extern const uint32_t
    kLayoutVersion;  // of what lies in it (shm/layout.h); layout.cc says which one this is

inline constexpr uint32_t kMinCapacity = 1024;   // slots
inline constexpr uint32_t kMaxCapacity = 65536;  // slots
inline constexpr uint32_t kSlotsPerWord = 64;

// max(max, 1024) rounded up to a multiple of 64.
constexpr uint32_t capacity_for(uint32_t max_workers) {
  uint32_t wanted = max_workers < kMinCapacity ? kMinCapacity : max_workers;
  return (wanted + kSlotsPerWord - 1) / kSlotsPerWord * kSlotsPerWord;
}

struct SegmentFds {
  UniqueFd read_write;  // for the supervisor, which maps it and closes it before it forks
  UniqueFd read_only;   // for control; opened read-only, so that it cannot be mapped writable
};

// Called by the daemon. All of its pages are allocated here (posix_fallocate): no memory to be had is an error now
// and not a SIGBUS in a worker later. Throws SysError "allocate N bytes of shared memory: ...".
SegmentFds create_segment(uint32_t capacity);

}  // namespace preforkd::shm
