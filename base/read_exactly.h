// A part of a file, whole or not at all.
#pragma once

#include <cstdint>

namespace preforkd {

// By pread(2), tried again when it was interrupted. False: there is less (errno 0), or it cannot be read
// (errno).
bool read_exactly(int fd, void* into, uint64_t size, uint64_t offset);

}  // namespace preforkd
