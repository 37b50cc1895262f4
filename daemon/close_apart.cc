#include "daemon/close_apart.h"

#include <fcntl.h>
#include <unistd.h>

#include "daemon/reap.h"

namespace preforkd {
namespace {

// Nearly always it is gone by then, and leaves nobody to the loop, or to an end that is near.
constexpr Nanoseconds kPatience = 100 * kMillisecond;

}  // namespace

void close_apart(UniqueFd fd) {
  int ends[2];
  if (!fd.is_open() || pipe2(ends, O_CLOEXEC) < 0) return;
  UniqueFd until_closed(ends[0]), here(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    char nothing;
    here.reset();
    [[maybe_unused]] ssize_t ignored = read(until_closed.get(), &nothing, 1);
    _exit(0);
  }
  fd.reset();
  here.reset();
  if (child < 0) return;                             // no process to be had: as ever
  is_reaped_by(child, monotonic_now() + kPatience);  // if not, the loop will reap it
}

}  // namespace preforkd
