#include "supervisor/shedder.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/backlog.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process_title.h"
#include "shm/bits.h"
#include "shm/doorbell.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kForkAgain = 1 * kSecond;

// What runs in the process.
class Shedding {
 public:
  explicit Shedding(const WorkerPlan& plan)
      : plan_(plan), segment_(plan.mapping.segment()), acceptor_(plan.listen_sockets) {}

  [[noreturn]] void run() {
    for (;;) {
      const uint32_t seen = segment_.published.saturated.load();
      if (is_saturated()) shed_while_saturated();
      shm::sleep_on(segment_.published.saturated, seen);
    }
  }

 private:
  void shed_while_saturated() {
    // Before the first look: whoever arrives after it is an event.
    UniqueFd arrivals(epoll_create1(EPOLL_CLOEXEC));
    if (!arrivals.is_open()) throw SysError("epoll_create1", errno);
    for (int fd : plan_.listen_sockets) {
      epoll_event event{};
      event.events = EPOLLIN | EPOLLET;
      if (epoll_ctl(arrivals.get(), EPOLL_CTL_ADD, fd, &event) < 0)
        throw SysError("epoll_ctl add listen socket", errno);
    }
    while (is_saturated()) {
      const auto most = exceeded_on(plan_.listen_sockets, plan_.settings.saturation_queue);
      if (most && turn_one_away(*most)) continue;
      epoll_event event;
      epoll_wait(arrivals.get(), &event, 1, -1);
    }
  }

  // There are as many workers as there may be, and none is idle but those who are stopped.
  bool is_saturated() const {
    const uint32_t at_max = segment_.published.at_max.load();
    if (at_max == 0) return false;
    uint32_t idle = 0;
    for (uint32_t w = 0; w < plan_.mapping.scan_words(); ++w)
      idle += shm::count_bits(plan_.mapping.bits(w).idle.load());
    return idle < at_max;
  }

  // More than `most` wait. False: a worker was faster.
  bool turn_one_away(uint32_t most) {
    const auto connection = acceptor_.try_accept();
    if (!connection) return false;
    if (const auto reason = plan_.gate.rejects(connection->peer)) {
      count(*reason);
      return true;
    }
    const int fd = connection->fd.get();
    const std::string& message = plan_.settings.saturation_message;
    send(fd, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    count(Rejection::kSaturated);
    plan_.closing.end(fd);
    log_.tell(connection->peer, Rejection::kSaturated,
              "all workers are busy, and more than " + std::to_string(most) +
                  " connections wait (saturation)");
    return true;
  }

  void count(Rejection reason) {
    segment_.shared.turned_away[static_cast<size_t>(reason)].fetch_add(1);
  }

  const WorkerPlan& plan_;
  shm::Segment& segment_;
  Acceptor acceptor_;
  RejectionLog log_;
};

}  // namespace

Shedder::Shedder(const WorkerPlan& plan, std::function<void()> before_work)
    : plan_(plan), before_work_(std::move(before_work)) {}

Nanoseconds Shedder::wake(Nanoseconds now) {
  shm::Word& saturated = plan_.mapping.segment().published.saturated;
  saturated.fetch_add(1);
  shm::wake_all(saturated);
  if (pid_) return kNever;
  if (now < fork_again_at_) return fork_again_at_;
  fork_again_at_ = now + kForkAgain;
  const AllSignalsBlocked over_the_fork;
  const pid_t pid = ::fork();
  if (pid == 0) shed();
  if (pid < 0) return fork_again_at_;
  pid_ = pid;
  return kNever;
}

void Shedder::stop() {
  if (pid_) kill(pid_, SIGKILL);  // reaped with the others
}

bool Shedder::was(pid_t changed, int status) {
  if (!is(changed)) return false;
  if (WIFSTOPPED(status)) stop();  // it may have somebody in hand
  if (WIFEXITED(status) || WIFSIGNALED(status)) pid_ = 0;
  return true;
}

void Shedder::shed() const {
  try {
    before_work_();
    for (int number = 1; number < NSIG; ++number)
      if (!is_ignored(number)) set_to_default(number);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != plan_.supervisor) _exit(0);
    block_exactly(0);
    set_process_title("preforkd: shedder " + plan_.settings.name, "preforkd-shed");
    Shedding(plan_).run();
  } catch (const std::exception& e) {
    log_error(e.what());
  }
  _exit(static_cast<int>(ExitCode::kInternal));
}

}  // namespace preforkd
