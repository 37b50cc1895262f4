#include "supervisor/quick_fork.h"

#include <dlfcn.h>
#include <unistd.h>

namespace {

// Sanitizers take hold of fork() itself.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
bool someone_wants_to_know = true;
#else
bool someone_wants_to_know = false;
#endif

}  // namespace

// What pthread_atfork() calls, in whichever object it is linked into. Being defined in the program, this one is
// found before libc's.
extern "C" __attribute__((visibility("default"))) int __register_atfork(void (*prepare)(),
                                                                        void (*parent)(),
                                                                        void (*child)(),
                                                                        void* object) {
  using Register = int (*)(void (*)(), void (*)(), void (*)(), void*);
  static const auto libc = reinterpret_cast<Register>(dlsym(RTLD_NEXT, "__register_atfork"));
  someone_wants_to_know = true;
  return libc ? libc(prepare, parent, child, object) : -1;
}

namespace preforkd {

pid_t quick_fork() { return someone_wants_to_know ? ::fork() : _Fork(); }

}  // namespace preforkd
