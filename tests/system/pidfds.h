// Pidfds for a daemon under valgrind, whose version in Debian 12 does not know the system calls that make and
// use them. handlers/pidfds.cc, preloaded there, asks whoever listens at $PIDFD_BROKER, a SOCK_SEQPACKET socket,
// to make the call for it; valgrind_test.cc does.
#pragma once

#include <cstdint>

namespace preforkd::system_test {

struct PidfdCall {
  int32_t number = 0;  // SYS_pidfd_open, or SYS_pidfd_send_signal, with the pidfd
  int32_t value = 0;   // the pid, or the signal
};

struct PidfdResult {  // with the pidfd, if one was made
  int32_t error = 0;
};

}  // namespace preforkd::system_test
