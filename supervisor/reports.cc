// A supervisor and its daemon: the orders that it obeys, and what it reports.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/backlog.h"
#include "base/fd.h"
#include "supervisor/supervisor.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kFinishQueue = 5 * kSecond;
// For the last step of a handshake: once round the world, or one that was lost and is asked for again after 1 s (the
// first RTO of RFC 6298). A flood of SYNs holds a drain up for no longer than that.
constexpr Nanoseconds kFinishHandshakes = 2 * kSecond;
constexpr Nanoseconds kLookAtHandshakes = 20 * kMillisecond;

}  // namespace

bool Supervisor::obey_daemon(Nanoseconds now) {
  bool any = false;
  Channel::Datagram datagram;
  for (;;) {
    Channel::Got got = daemon_.orders.receive(datagram);
    if (got == Channel::Got::kNothing) return any;
    auto order = got == Channel::Got::kMessage ? datagram.as<Order>() : std::nullopt;
    if (!order) {  // the daemon died, or is not what it was
      daemon_.close();
      if (course_ == Course::kServing) drain(plan_.settings.drain_timeout, 0, now);
      return any;
    }
    obey(*order, now);
    acknowledge(order->number);
    any = true;
  }
}

void Supervisor::obey(const Order& order, Nanoseconds now) {
  switch (order.type) {
    case OrderType::kLimits:
      limits_ = order.limits;
      limits_.max = std::min(limits_.max, board_.capacity());
      break;
    case OrderType::kDrain:
      if (course_ == Course::kServing) drain(order.drain, order.finish, now);
      break;
    case OrderType::kStop:
      course_ = Course::kEnding;
      shedder_.stop();
      board_.segment().published.leaving.store(shm::kDrain);
      workforce_.end_all(now);
      break;
    case OrderType::kReadable:
      watching_ = false;
      readable_ = true;
      break;
    case OrderType::kLookAgain:
      look_again_at_ = now;
      break;
    case OrderType::kServe:
      on_trial_ = false;  // publish() says so
      break;
    case OrderType::kPing:
      break;
  }
}

void Supervisor::drain(Nanoseconds timeout, uint64_t finish, Nanoseconds now) {
  course_ = Course::kDraining;
  drain_ends_ = now + timeout;
  shm::Published& published = board_.segment().published;
  finish_ = finish;
  shedder_.stop();
  if (finish) {
    queue_ends_ = now + std::min(timeout, kFinishQueue);
    handshakes_end_ = std::min(now + kFinishHandshakes, queue_ends_);
    published.accept_from.store(finish);
    published.accept_until.store(queue_ends_);
    published.ring_on.store(
        shm::kRingOnCompleted);  // whoever is done may have taken the last of it
  }
  // Every worker that becomes busy from now on rings: the daemon wants to know when none accepts.
  published.low_water.store(~0u);
  published.leaving.store(shm::kDrain);
  if (!finish) workforce_.release_all_starters();
  workforce_.nudge_all();
}

// To those who finish. A worker that looked before takes the queue for finished, and leaves; another is forked.
void Supervisor::give_time(Nanoseconds length) {
  if (drain_ends_ != kNever) drain_ends_ += length;
  if (finish_ == 0) return;
  queue_ends_ += length;
  if (handshakes_end_ > 0) handshakes_end_ += length;
  board_.segment().published.accept_until.store(queue_ends_);
}

// Busy workers hold the sockets until they are done: without this nobody serves who comes in, and the next
// daemon cannot bind their addresses. Who is in a queue hears of it now: of TCP the kernel resets them, of a Unix
// socket it would with the last copy.
void Supervisor::give_up_sockets() {
  for (; own_sockets_ > 0; --own_sockets_) {
    const int listen_socket = plan_.listen_sockets[own_sockets_ - 1];
    shutdown(listen_socket, SHUT_RDWR);
    while (UniqueFd(accept4(listen_socket, nullptr, nullptr, SOCK_CLOEXEC)).is_open()) {
    }
  }
}

// Not at each turn: the kernel looks through all connections of the machine for it.
bool Supervisor::somebody_joins(Nanoseconds now) {
  if (now >= handshakes_end_) return false;
  if (now < look_at_handshakes_) return true;
  const bool joins = shakes_hands(plan_.listen_sockets, finish_);
  look_at_handshakes_ = now + kLookAtHandshakes;
  if (!joins) handshakes_end_ = 0;
  return joins;
}

// Whether nobody is left who could still be served. Only handshakes under way join the queue yet; once it is empty
// without any, it is for good. (They are looked at first: who has finished one is in the queue.)
bool Supervisor::queue_is_finished(Nanoseconds now) {
  if (finish_ == 0) return true;
  if (now < queue_ends_) {
    const bool joins = somebody_joins(now);
    due_ = std::min(due_, joins ? look_at_handshakes_ : queue_ends_);
    const auto waiting = queued_if_known(plan_.listen_sockets, finish_);
    if (!waiting) due_ = std::min(due_, now + kLookAtHandshakes);
    if (joins || waiting != 0u) return false;
  }
  finish_ = 0;
  board_.segment().published.accept_until.store(0);
  workforce_.release_all_starters();  // they leave
  return true;
}

// Of programs each serves one connection, and workers die: who waits gets one, as before the drain.
bool Supervisor::fork_for_queue(Nanoseconds now) {
  const shm::Counts counts = board_.counts();
  const uint32_t waiting = queued(finish_), takers = counts.idle + counts.starting;
  if (waiting <= takers || board_.alive() >= limits_.max) return false;
  Verdict verdict;
  verdict.action = Action::kGrow;
  verdict.reason = Reason::kDemand;
  verdict.count = std::min(waiting - takers, limits_.max - board_.alive());
  restrain(verdict, now);
  if (verdict.action != Action::kGrow) return false;
  board_.record(verdict.action, verdict.reason, verdict.count, counts, waiting, board_.peak(),
                limits_, memory_.patience, now);
  return grow(verdict, now);
}

void Supervisor::acknowledge(uint32_t number) {
  Report report;
  report.type = ReportType::kAck;
  report.number = number;
  report.level = static_cast<int32_t>(board_.alive());
  daemon_.reports.send_struct(report);  // lost: the order comes again
}

bool Supervisor::say(ReportType type, uint32_t number, const std::string& text) {
  Report report;
  report.type = type;
  report.number = number;
  text.copy(report.text, sizeof report.text - 1);
  if (daemon_.reports.send_struct(report) == Channel::Sent::kYes) return true;
  return !daemon_.is_open();  // nobody to tell: nothing to say again
}

void Supervisor::send_log(const LogLine& line) {
  const pid_t worker = getpid() == plan_.supervisor ? 0 : getpid();
  if (worker || !daemon_.is_open())
    return log_to_pipe({line.level, {}, worker, line.text});  // whose it is, the pipe says
  Report report;
  report.type = ReportType::kLog;
  report.level = static_cast<int32_t>(line.level);
  report.pid = line.worker;
  report.event = line.event;
  report.number = lost_lines_;
  line.text.copy(report.text, sizeof report.text - 1);
  if (daemon_.reports.send_struct(report) == Channel::Sent::kYes)
    lost_lines_ = 0;
  else
    ++lost_lines_;
}

std::string Supervisor::what_degrades() const {
  if (breaker_.tripped())
    return std::to_string(breaker_.died) + " workers died in a row, the last one " + last_death_;
  if (monotonic_now() < paced_until_)
    return "workers are lost faster than others are forked" +
           (last_death_.empty() ? "" : ", the last one " + last_death_);
  if (fork_failures_) return std::string("fork: ") + std::strerror(fork_error_);
  return "";
}

// Until it is ready, it wants as many workers as it was told to begin with.
Limits Supervisor::in_force() const {
  Limits limits = limits_;
  if (!told_ready_)
    limits.min = std::clamp(first_workers_, limits_.min, std::max(limits_.min, limits_.max));
  return limits;
}

// Ready, degraded or not, quiet: told when it changes, and again if the channel was full.
bool Supervisor::tell_progress(Nanoseconds now) {
  const shm::Counts counts = board_.counts();
  bool heard = true, ready = false;
  if (!told_ready_ && course_ == Course::kServing && counts.idle + counts.busy >= in_force().min)
    heard &= ready = told_ready_ = say(ReportType::kReady);
  const std::string trouble = what_degrades();
  if (!trouble.empty() && paced_until_ > now) due_ = std::min(due_, paced_until_);
  if (trouble.empty() == told_degraded_) {
    const bool said = say(trouble.empty() ? ReportType::kRecovered : ReportType::kDegraded,
                          counts.idle + counts.busy, trouble);
    if (said) told_degraded_ = !told_degraded_;
    heard &= said;
  }
  // Who is busy, or looks at the queue a last time, takes what waits before leaving.
  const bool nobody_accepts = counts.idle + counts.starting == 0 && queue_is_finished(now);
  if (course_ != Course::kServing && !told_quiet_ && nobody_accepts) {
    heard &= told_quiet_ = say(ReportType::kQuiet, counts.busy);
    board_.segment().published.low_water.store(0);
  }
  if (told_quiet_ && !daemon_.is_open()) give_up_sockets();
  if (!heard) due_ = std::min(due_, now + kSayAgain);
  return ready;  // from here on fewer may do
}

}  // namespace preforkd
