#include "shm/region.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/memory_file.h"
#include "shm/layout.h"

namespace preforkd::shm {
SegmentFds create_segment(uint32_t capacity) {
  SegmentFds fds;
  fds.read_write = make_memory_file("preforkd-segment");
  const int fd = fds.read_write.get();
  // Else whoever has one of the descriptors could open it anew, with all rights.
  if (fchmod(fd, 0600) < 0) throw SysError("fchmod shared memory", errno);
  const size_t size = segment_size(capacity);
  // posix_fallocate also sets the size; it returns its error instead of setting errno.
  if (int error = posix_fallocate(fd, 0, static_cast<off_t>(size)))
    throw SysError("allocate " + std::to_string(size) + " bytes of shared memory", error);
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
    throw SysError("seal shared memory", errno);
  fds.read_only.reset(open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fds.read_only.is_open()) throw SysError("open shared memory for reading", errno);
  return fds;
}

}  // namespace preforkd::shm
