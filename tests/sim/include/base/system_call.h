// Stands before preforkd's own base/system_call.h in the simulation: what it calls past libc, tests/sim/system_calls.cc answers.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace preforkd {

namespace sim {
long answer(long number, const long (&arguments)[6]);
}

inline long as_argument(long value) { return value; }
inline long as_argument(const volatile void* pointer) { return reinterpret_cast<long>(pointer); }

// The result, or -errno.
template <class... Arguments>
inline long system_call(long number, Arguments... arguments) {
  static_assert(sizeof...(Arguments) <= 6);
  const long given[6] = {as_argument(arguments)...};
  return sim::answer(number, given);
}

}  // namespace preforkd
