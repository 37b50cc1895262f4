// The functions of libc that this object stands before, as they are behind it.
#pragma once

#include <dlfcn.h>

namespace preforkd {

template <class Function>
Function* next_of(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace preforkd

// libc's, by its name: PREFORKD_LIBC(close)(fd).
#define PREFORKD_LIBC(name)                                     \
  ([] {                                                         \
    static const auto next = preforkd::next_of(&::name, #name); \
    return next;                                                \
  }())
