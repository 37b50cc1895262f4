#include "shm/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <stdexcept>

#include "base/error.h"
#include "base/memory_file.h"

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

Mapping::Mapping(int read_write_fd, uint32_t capacity) : capacity_(capacity) {
  struct stat s {};
  if (fstat(read_write_fd, &s) < 0) throw SysError("fstat shared memory", errno);
  if (static_cast<size_t>(s.st_size) != segment_size(capacity))
    throw std::runtime_error("shared memory has " + std::to_string(s.st_size) + " bytes, not " +
                             std::to_string(segment_size(capacity)));
  void* at =
      mmap(nullptr, segment_size(capacity), PROT_READ | PROT_WRITE, MAP_SHARED, read_write_fd, 0);
  if (at == MAP_FAILED) throw SysError("map shared memory", errno);
  base_ = static_cast<char*>(at);
}

Mapping::~Mapping() { munmap(base_, segment_size(capacity_)); }

}  // namespace preforkd::shm
