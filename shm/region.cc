#include "shm/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cerrno>
#include <stdexcept>

#include "base/error.h"

namespace preforkd::shm {
namespace {

std::string random_name() {
  uint64_t bits = 0;
  if (getrandom(&bits, sizeof bits, 0) != sizeof bits) throw SysError("getrandom", errno);
  return "/preforkd-" + std::to_string(bits);
}

}  // namespace

SegmentFds create_segment(uint32_t capacity) {
  SegmentFds fds;
  for (;;) {
    std::string name = random_name();
    fds.read_write.reset(shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fds.read_write.is_open() && errno == EEXIST) continue;
    if (!fds.read_write.is_open()) throw SysError("create shared memory " + name, errno);
    fds.read_only.reset(shm_open(name.c_str(), O_RDONLY | O_CLOEXEC, 0));
    int error = errno;
    shm_unlink(name.c_str());
    if (!fds.read_only.is_open()) throw SysError("open shared memory " + name, error);
    break;
  }
  size_t size = segment_size(capacity);
  // posix_fallocate also sets the size; it returns its error instead of setting errno.
  if (int error = posix_fallocate(fds.read_write.get(), 0, static_cast<off_t>(size)))
    throw SysError("allocate " + std::to_string(size) + " bytes in /dev/shm", error);
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
