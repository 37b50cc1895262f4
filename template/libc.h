// For what an object that is preloaded has in the place of libc's functions.
#pragma once

#include <dlfcn.h>

namespace preforkd {

// The function as it is behind this object.
template <class Function>
Function* next_of(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace preforkd

// A function that is found before libc's.
#define PREFORKD_INSTEAD extern "C" __attribute__((visibility("default")))

// libc's, by its name: PREFORKD_LIBC(close)(fd).
#define PREFORKD_LIBC(name)                                     \
  ([] {                                                         \
    static const auto next = preforkd::next_of(&::name, #name); \
    return next;                                                \
  }())
