// A worker's signals (worker/intake.h says what each means). The handlers are installed by the supervisor, once,
// and inherited: a fresh worker has to serve, and each call that it makes first, and each page of libc that it
// touches for one, is time that its client waits.
#pragma once

#include <signal.h>

#include <array>
#include <cstdint>

#include "base/system_call.h"

namespace preforkd {

// For a supervisor, before its first fork. In it a nudge does nothing, and SIGTERM calls `on_term`.
void install_inherited_signals(void (*on_term)(int));

// (glibc's own refuse 32 and 33.)
inline constexpr long kKernelSetSize = 8;
inline void set_to_default(int number) {
  const uint64_t action[8] =
      {};  // struct sigaction as the kernel has it, and some room: the handler comes first
  system_call(SYS_rt_sigaction, number, action, 0, kKernelSetSize);
}
inline void throw_away_pending(int number) {  // and set it to its default
  const uint64_t action[8] = {reinterpret_cast<uint64_t>(SIG_IGN)};
  system_call(SYS_rt_sigaction, number, action, 0, kKernelSetSize);
  set_to_default(number);
}
inline bool is_ignored(int number) {
  uint64_t action[8] = {};
  return system_call(SYS_rt_sigaction, number, 0, action, kKernelSetSize) == 0 &&
         action[0] == reinterpret_cast<uint64_t>(SIG_IGN);
}
// Over a fork: the child must not run its parent's handlers. (It takes what it blocks into its own hands.)
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before_);
  }
  ~AllSignalsBlocked() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// What a worker that was executed has handlers for (worker/intake.cc): the nudge, the order to leave or end, the supervisor's death.
inline constexpr std::array kProgramsWorkerSignals = {SIGURG, SIGTERM, SIGUSR2};

inline constexpr uint64_t signal_bit(int number) { return uint64_t{1} << (number - 1); }
inline void block_exactly(uint64_t signals) {
  system_call(SYS_rt_sigprocmask, SIG_SETMASK, &signals, 0, kKernelSetSize);
}

}  // namespace preforkd
