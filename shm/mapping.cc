#include "shm/mapping.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <stdexcept>
#include <string>

#include "base/error.h"

namespace preforkd::shm {

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
