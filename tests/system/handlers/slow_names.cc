// Loaded with LD_PRELOAD: a resolver and a database of users that never answer for the names "slow.test" and "slow".
#include <dlfcn.h>
#include <netdb.h>
#include <pwd.h>
#include <unistd.h>

#include <cstring>

namespace {

void hang_if(const char* name, const char* slow) {
  while (name && std::strcmp(name, slow) == 0) pause();
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int getaddrinfo(const char* host, const char* service,
                                                       const addrinfo* hints, addrinfo** found) {
  // Of a number, nobody is asked.
  if (!hints || !(hints->ai_flags & AI_NUMERICHOST)) hang_if(host, "slow.test");
  return next<decltype(&getaddrinfo)>("getaddrinfo")(host, service, hints, found);
}

__attribute__((visibility("default"))) int getpwnam_r(const char* name, passwd* entry, char* buffer,
                                                      size_t size, passwd** found) {
  hang_if(name, "slow");
  return next<decltype(&getpwnam_r)>("getpwnam_r")(name, entry, buffer, size, found);
}
}
