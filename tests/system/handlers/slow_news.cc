// Loaded with LD_PRELOAD: whoever sends a message by sendmsg(2), as the daemon does to control, takes 20 ms for it. What lies
// between two messages then lasts, and whoever reads them meets it.
#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

extern "C" __attribute__((visibility("default"))) ssize_t sendmsg(int fd, const msghdr* message,
                                                                  int flags) {
  static const auto next = reinterpret_cast<decltype(&sendmsg)>(dlsym(RTLD_NEXT, "sendmsg"));
  const ssize_t sent = next(fd, message, flags);
  usleep(20'000);
  return sent;
}
