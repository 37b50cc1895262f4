#include "supervisor/own_memory.h"

#include <sys/mman.h>

#include <new>

namespace preforkd {

void* OwnMemory::do_allocate(size_t bytes, size_t) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, bytes, MADV_DONTFORK);  // where it cannot be had, it is slower
  return memory;
}

void OwnMemory::do_deallocate(void* memory, size_t bytes, size_t) { munmap(memory, bytes); }

}  // namespace preforkd
