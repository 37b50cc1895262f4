// Segments whose pages are there when they are touched: of the thousands of a simulation few are.
#include "shm/region.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/memory_file.h"
#include "shm/layout.h"

namespace preforkd::shm {

SegmentFds create_segment(uint32_t capacity) {
  SegmentFds fds;
  fds.read_write = make_memory_file("simulated-segment");
  if (ftruncate(fds.read_write.get(), static_cast<off_t>(segment_size(capacity))) < 0) std::abort();
  fds.read_only.reset(dup(fds.read_write.get()));
  return fds;
}

}  // namespace preforkd::shm
