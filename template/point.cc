#include "template/point.h"

#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <fstream>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/system_call.h"
#include "template/threads.h"

namespace preforkd {
namespace {

// One that was joined just now may be there yet.
constexpr Nanoseconds kThreadGone = 50 * kMillisecond;

// Of what has more than one: who else is known to start them, and what helps.
std::string advice_on_threads() {
  constexpr std::pair<const char*, const char*> kKnown[] = {
      {"libopenblas", "OPENBLAS_NUM_THREADS=1 helps"},
      {"libgomp", "OMP_NUM_THREADS=1 helps"},
      {"libmkl", "MKL_NUM_THREADS=1 helps"}};
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    for (const auto& [library, advice] : kKnown)
      if (line.find(library) != line.npos) return std::string(" (") + advice + ")";
  return "";
}

std::string trouble_with_threads() {
  const Nanoseconds until = monotonic_now() + kThreadGone;
  unsigned count = threads();
  while (count > 1 && monotonic_now() < until) {
    sleep_for(kMillisecond);
    count = threads();
  }
  return count > 1 ? std::to_string(count) + " threads" + advice_on_threads() : "";
}

std::string trouble_with_children() {
  siginfo_t info{};
  if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0) return "";
  std::string name;
  std::ifstream children("/proc/self/task/" + std::to_string(getpid()) + "/children");
  if (pid_t child; children >> child)
    std::getline(std::ifstream("/proc/" + std::to_string(child) + "/comm"), name);
  return name.empty() ? "it has children" : "it has a child (" + name + ")";
}

// Who made the channel is the supervisor.
std::string trouble_with_user(int channel) {
  ucred supervisor{};
  socklen_t size = sizeof supervisor;
  if (getsockopt(channel, SOL_SOCKET, SO_PEERCRED, &supervisor, &size) < 0) return "";
  uid_t real, effective, saved;
  if (getresuid(&real, &effective, &saved) < 0) return "";
  const bool same = real == supervisor.uid && saved == supervisor.uid;
  return same || supervisor.uid == 0 ? "" : "it has changed its user";
}

void send_report(int channel, TemplateReportType type, uint32_t number, int error,
                 const std::string& text) {
  TemplateReport report;
  report.type = type;
  report.number = number;
  report.error = error;
  text.copy(report.text, sizeof report.text - 1);
  while (send(channel, &report, sizeof report, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

}  // namespace

ForkPoint::ForkPoint(int channel, pid_t supervisor, const shm::Mapping& mapping,
                     std::vector<int> ours, std::function<void()> in_worker)
    : channel_(channel),
      supervisor_(supervisor),
      mapping_(mapping),
      ours_(std::move(ours)),
      in_worker_(std::move(in_worker)) {}

uint32_t ForkPoint::stand() {
  try {
    interpreter_.settle();
    const std::string trouble = what_stands_in_the_way();
    if (!trouble.empty()) end(trouble);
  } catch (const std::exception& e) {
    end(e.what());
  }
  malloc_trim(0);
  say(TemplateReportType::kStands);
  for (;;) {
    TemplateOrder order;
    const ssize_t size = recv(channel_, &order, sizeof order, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size != sizeof order) _exit(0);  // nobody is there who could have workers
    uint32_t slot = 0;
    if (obey(order, slot)) return slot;
  }
}

std::string ForkPoint::what_stands_in_the_way() {
  std::string trouble = sibling_.trouble();
  if (trouble.empty()) trouble = trouble_with_user(channel_);
  if (trouble.empty()) trouble = trouble_with_threads();
  if (trouble.empty()) trouble = trouble_with_children();
  if (trouble.empty()) trouble = timers_.take();
  return trouble.empty() ? descriptors_.look(ours_) : trouble;
}

// True in a new worker.
bool ForkPoint::obey(const TemplateOrder& order, uint32_t& slot) {
  if (threads() > 1)
    if (const std::string trouble = trouble_with_threads(); !trouble.empty()) end(trouble);
  const uint32_t count = std::min(order.count, TemplateOrder::kMostSlots);
  int error = 0;
  for (uint32_t i = 0; i < count && error == 0; ++i) {
    slot = order.slots[i];
    if (slot < mapping_.capacity() && fork(slot, error)) return true;
  }
  say(TemplateReportType::kDone, order.number, error);
  return false;
}

bool ForkPoint::fork(uint32_t slot, int& error) {
  sigset_t all, before;
  sigfillset(&all);
  interpreter_.before_fork();
  sigprocmask(SIG_SETMASK, &all, &before);
  const pid_t pid = sibling_.fork(mapping_.slot(slot).pid, [&] {
    be_worker();
    sigprocmask(SIG_SETMASK, &before, nullptr);
  });
  if (pid < 0) error = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid == 0)
    interpreter_.after_fork_in_child();
  else
    interpreter_.after_fork_in_parent();
  return pid == 0;
}

// What the program has registered for a fork runs after this: it may open and close as it likes.
void ForkPoint::be_worker() const {
  try {
    system_call(SYS_prctl, PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    if (system_call(SYS_getppid) != supervisor_) _exit(0);
    system_call(SYS_setpgid, 0, 0);
    system_call(SYS_close, channel_);
    descriptors_.renew();
    timers_.renew();
    in_worker_();
  } catch (const std::exception& e) {
    log_error(e.what());
    _exit(static_cast<int>(ExitCode::kInternal));
  }
}

void ForkPoint::end(const std::string& why) {
  say(TemplateReportType::kCannot, 0, 0, why);
  _exit(static_cast<int>(ExitCode::kConfig));
}

void ForkPoint::tell_trouble(int channel, const std::string& why) {
  send_report(channel, TemplateReportType::kCannot, 0, 0, why);
}

void ForkPoint::say(TemplateReportType type, uint32_t number, int error,
                    const std::string& text) const {
  send_report(channel_, type, number, error, text);
}

}  // namespace preforkd
