// No handler: see tests/system/pidfds.h.
#include "tests/system/pidfds.h"

#include <dlfcn.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

#include "ipc/channel.h"

namespace preforkd::system_test {
namespace {

// As the call would: the pidfd or 0, or -1 with errno.
long have_made(const PidfdCall& call, int pidfd) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, std::getenv("PIDFD_BROKER"), sizeof address.sun_path - 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) std::abort();
  Channel broker(std::move(fd));
  broker.send_struct(call, pidfd);
  pollfd answered{broker.fd(), POLLIN, 0};
  while (poll(&answered, 1, -1) < 0 && errno == EINTR) {
  }
  Channel::Datagram answer;
  broker.receive(answer);
  const auto result = answer.as<PidfdResult>();
  if (!result) std::abort();
  errno = result->error;
  if (result->error) return -1;
  return answer.descriptor.is_open() ? answer.descriptor.release() : 0;
}

}  // namespace
}  // namespace preforkd::system_test

extern "C" __attribute__((visibility("default"))) long syscall(long number, ...) noexcept {
  using namespace preforkd::system_test;
  long a[6];
  va_list arguments;
  va_start(arguments, number);
  for (long& argument : a) argument = va_arg(arguments, long);
  va_end(arguments);
  if (number == SYS_pidfd_open)
    return have_made({static_cast<int32_t>(number), static_cast<int32_t>(a[0])}, -1);
  if (number == SYS_pidfd_send_signal)
    return have_made({static_cast<int32_t>(number), static_cast<int32_t>(a[1])},
                     static_cast<int>(a[0]));
  static const auto real = reinterpret_cast<long (*)(long, ...)>(dlsym(RTLD_NEXT, "syscall"));
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
