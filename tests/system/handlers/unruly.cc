// unruly: a handler that does what it should not, when it is told to. Each byte of a client is an order:
//
//   p  answers with its pid, a line          c  aborts                  s  spins for ever
//   n  answers with the connection's number  x  exits with status 3     b  blocks in read for ever
//   f  ends the connection as failed         t  ignores TERM, and blocks for ever
//   e  calls exit(0)                         o  overruns its stack      d  closes all descriptors but 0 to 2
//   g  returns garbage                       k  forks a child, leaves it the connection, and returns
//   l  looks for leaks, and answers with 1 if there are any (in a build with AddressSanitizer)
//
// Settings: start_ms: `start` takes so long; start_while: a path: it lasts as long as that exists; crash_while:
// the same, and it aborts; starts: a path: `start` appends '+' when it begins and '-' when it is over;
// die_after_ms: each worker dies so long after its start, by SIGALRM; fail_preload: preload refuses;
// crash_preload: it aborts; exit_preload: it calls exit(0); thread_preload: it leaves a thread behind;
// close_preload: it closes all descriptors but 0 to 2; hang_preload: then it hangs; signal_preload: it ignores and blocks all signals;
// crash_stop: `stop` aborts; garble_while: a path: as long as it exists, preload writes what no report is where the
// supervisor's reports go.
#include <fcntl.h>
#include <preforkd/handler.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "ipc/supervisor_args.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace {

struct Settings {
  long start_ms = 0, die_after_ms = 0;
  std::string crash_while, start_while, starts;
  bool crash_stop = false;
};

int preload(const preforkd_host* host, void** state) {
  auto json = nlohmann::json::parse(host->settings, nullptr, false);
  if (json.is_discarded() || json.value("fail_preload", false)) {
    host->log(3, "preload refuses, as it was told to");
    return 1;
  }
  if (json.value("crash_preload", false)) abort();
  if (json.value("exit_preload", false)) std::exit(0);
  if (json.value("thread_preload", false)) std::thread([] { pause(); }).detach();
  constexpr char kNoReport[] = "\xff\xff\xff\xff\xff\xff\xff\xff";
  const std::string garble_while = json.value("garble_while", "");
  if (!garble_while.empty() && access(garble_while.c_str(), F_OK) == 0 &&
      write(preforkd::kReportsFd, kNoReport, sizeof kNoReport) < 0)
    abort();
  if (json.value("close_preload", false))
    for (int fd = 3; fd < 1024; ++fd) close(fd);
  while (json.value("hang_preload", false)) pause();
  if (json.value("signal_preload", false)) {
    for (int number = 1; number < NSIG; ++number) signal(number, SIG_IGN);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
  }
  static Settings settings;  // it may never come to a worker that would know it
  settings = {json.value("start_ms", 0L),    json.value("die_after_ms", 0L),
              json.value("crash_while", ""), json.value("start_while", ""),
              json.value("starts", ""),      json.value("crash_stop", false)};
  *state = &settings;
  return 0;
}

void append(const std::string& path, const char* mark) {
  if (path.empty()) return;
  int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd < 0 || write(fd, mark, 1) != 1) abort();
  close(fd);
}

int start(void* state) {
  const auto& settings = *static_cast<const Settings*>(state);
  append(settings.starts, "+");
  timespec pause{settings.start_ms / 1000, settings.start_ms % 1000 * 1'000'000};
  nanosleep(&pause, nullptr);
  while (!settings.start_while.empty() && access(settings.start_while.c_str(), F_OK) == 0)
    usleep(5'000);
  if (!settings.crash_while.empty() && access(settings.crash_while.c_str(), F_OK) == 0) abort();
  const itimerval end{{0, 0}, {settings.die_after_ms / 1000, settings.die_after_ms % 1000 * 1000}};
  setitimer(ITIMER_REAL, &end, nullptr);
  append(settings.starts, "-");
  return 0;
}

bool answer(int fd, uint64_t number) {
  std::string line = std::to_string(number) + "\n";
  return send(fd, line.data(), line.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(line.size());
}

void block() {
  for (;;) pause();
}

// (Written to, so that no compiler makes a loop of it.)
int overrun(volatile char* above, int times) {
  volatile char here[4096];
  here[0] = *above;
  return times == 0 ? 0 : overrun(here, times - 1) + here[0];
}

// Whoever started it does not reap it; it goes by itself if nobody ends it.
void leave_a_child() {
  if (fork() != 0) return;
  alarm(60);
  block();
}

void stop(void* state) {
  if (static_cast<const Settings*>(state)->crash_stop) abort();
}

int serve(void*, const preforkd_connection* c) {
  for (char order; recv(c->fd, &order, 1, 0) == 1;) {
    switch (order) {
      case 'p':
        if (!answer(c->fd, static_cast<uint64_t>(getpid()))) return 1;
        break;
      case 'n':
        if (!answer(c->fd, c->number)) return 1;
        break;
#ifdef __SANITIZE_ADDRESS__
      case 'l':
        if (!answer(c->fd, __lsan_do_recoverable_leak_check() != 0)) return 1;
        break;
#endif
      case 'f':
        return 1;
      case 'c':
        abort();
      case 'x':
        _exit(3);
      case 'e':
        std::exit(0);
      case 'o': {
        volatile char top = 1;
        return overrun(&top, 1 << 20);
      }
      case 'd':
        for (int fd = 3; fd < 1024; ++fd) close(fd);
        return 0;
      case 'g':
        return -2147483647 - 1;
      case 'k':
        leave_a_child();
        return 0;
      case 's':
        for (volatile bool forever = true; forever;) {
        }
        break;
      case 't':
        signal(SIGTERM, SIG_IGN);
        block();
        break;
      case 'b':
        block();
        break;
    }
  }
  return 0;
}

}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI, sizeof(preforkd_handler), "unruly", preload, start, serve, stop};
