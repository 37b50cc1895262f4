#include "interpose/signals.h"

#include <signal.h>

#include <atomic>
#include <cerrno>

#include "interpose/listener.h"
#include "template/libc.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

struct {
  std::atomic<bool> are_kept{false};
  struct sigaction actions[kProgramsWorkerSignals.size()];
} here;

// Null: it is libc's.
struct sigaction* kept(int number) {
  if (!here.are_kept.load(std::memory_order_relaxed)) return nullptr;
  for (size_t i = 0; i < kProgramsWorkerSignals.size(); ++i)
    if (kProgramsWorkerSignals[i] == number)
      return Listener::of_this_process() ? &here.actions[i] : nullptr;
  return nullptr;
}

// As signal(2) and its like: the handler that was there before.
sighandler_t replace(struct sigaction& action, sighandler_t handler, int flags) {
  const sighandler_t before = action.sa_handler;
  action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  return before;
}

}  // namespace

void note_programs_signals() {
  for (size_t i = 0; i < kProgramsWorkerSignals.size(); ++i)
    PREFORKD_LIBC(sigaction)(kProgramsWorkerSignals[i], nullptr, &here.actions[i]);
}

void keep_signals() { here.are_kept = true; }

}  // namespace preforkd

using namespace preforkd;

// Of libc's, for programs that want System V's; its header has another name for it.
extern "C" sighandler_t __sysv_signal(int, sighandler_t) noexcept;

PREFORKD_INSTEAD int sigaction(int number, const struct sigaction* action,
                               struct sigaction* before) noexcept {
  struct sigaction* const mine = kept(number);
  if (!mine) return PREFORKD_LIBC(sigaction)(number, action, before);
  const struct sigaction was = *mine;
  if (action) *mine = *action;
  if (before) *before = was;
  return 0;
}

PREFORKD_INSTEAD sighandler_t signal(int number, sighandler_t handler) noexcept {
  struct sigaction* const mine = kept(number);
  return mine ? replace(*mine, handler, SA_RESTART) : PREFORKD_LIBC(signal)(number, handler);
}

PREFORKD_INSTEAD sighandler_t __sysv_signal(int number, sighandler_t handler) noexcept {
  struct sigaction* const mine = kept(number);
  return mine ? replace(*mine, handler, static_cast<int>(SA_RESETHAND | SA_NODEFER))
              : PREFORKD_LIBC(__sysv_signal)(number, handler);
}
