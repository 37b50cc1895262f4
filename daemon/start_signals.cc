#include "daemon/start_signals.h"

#include <unistd.h>

#include "daemon/launch.h"

namespace preforkd {
namespace {

// Sent again, it waits until this returns, and has its default by then.
void on_end(int number) {
  end_awaited();
  if (getpid() == 1) _exit(128 + number);  // the first process is not sent what has its default
  kill(getpid(), number);
}

}  // namespace

void end_at(std::initializer_list<int> signals) {
  struct sigaction action {};
  action.sa_handler = on_end;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigset_t unblocked;
  sigemptyset(&unblocked);
  for (const int number : signals) {
    sigaction(number, &action, nullptr);
    sigaddset(&unblocked, number);
  }
  sigprocmask(SIG_UNBLOCK, &unblocked, nullptr);
}

}  // namespace preforkd
