// Memory that stays with the process that made it: a child of fork(2) has a hole there (MADV_DONTFORK). What the
// supervisor alone writes to lies in it. In ordinary memory each page would, after every fork, be shared
// with the last child, and copied at the next write (measured: 4 µs a page; a pool of programs forks for
// each connection).
#pragma once

#include <cstddef>
#include <memory_resource>

namespace preforkd {

class OwnMemory : public std::pmr::memory_resource {
 private:
  void* do_allocate(size_t bytes, size_t alignment) override;  // throws std::bad_alloc
  void do_deallocate(void* memory, size_t bytes, size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }
};

}  // namespace preforkd
