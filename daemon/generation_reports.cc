// What a generation hears from its supervisor: who says it, and how much of it is taken.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/processor_time.h"
#include "daemon/generation.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kUntilDead = 1 * kSecond;
constexpr Nanoseconds kReportsAgain = 100 * kMillisecond;
constexpr int kMostAtOnce = 64;  // reports read before others have their turn

// Of these the last one holds.
bool is_state(ReportType type) {
  return type == ReportType::kFailed || type == ReportType::kDegraded ||
         type == ReportType::kRecovered || type == ReportType::kReady;
}

}  // namespace

void Generation::watch_reports() {
  loop_.watch(reports_.fd(), EPOLLIN, [this](uint32_t) { read_reports(); });
}

void Generation::read_reports() {
  std::string bytes;
  for (int i = 0; i < kMostAtOnce && reports_.is_open(); ++i) {
    const Nanoseconds now = monotonic_now();
    if (!is_reaped_ && !budget_.take(now)) return rest(kReportsAgain);
    if (unclaimed_.empty()) {
      Inbox::Got got = reports_.receive(bytes);
      if (got == Inbox::Got::kNothing) return;
      if (got == Inbox::Got::kGone) return take_ill();
    } else {
      bytes = std::exchange(unclaimed_, "");
    }
    const pid_t sender = sender_of(bytes);
    if (sender == 0 && !is_dead()) {
      unclaimed_ = std::move(bytes);
      return rest(kUntilDead);
    }
    if (sender != 0 && sender != child_.pid) return disbelieve(sender);
    auto report = message_in<Report>(bytes);
    if (!report) return take_ill();
    believe(*report);
  }
}

pid_t Generation::sender_of(const std::string& report) {
  const Nanoseconds began = processor_time();
  const pid_t sender = reports_.sender_of(report);
  budget_.take_more(std::min(processor_time() - began, kDearest) / kReportCosts);
  return sender;
}

// What is in the pipe stays there.
void Generation::rest(Nanoseconds pause) {
  loop_.forget(reports_.fd());
  reports_timer_ = loop_.after(pause, [this] {
    if (!unclaimed_.empty() && !is_dead()) return disbelieve(0);
    watch_reports();
  });
}

bool Generation::is_dead() const {
  siginfo_t info{};
  return is_reaped_ ||
         waitid(P_PID, static_cast<id_t>(child_.pid), &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
         info.si_pid == child_.pid;
}

void Generation::disbelieve(pid_t sender) {
  log({LogLevel::kError, pool_, sender,
       std::string(sender ? "it" : "somebody") + " speaks for supervisor " +
           std::to_string(child_.pid) + ", which is killed",
       Event::kSupervisorSilent});
  child_.signal(SIGKILL);
  close_ends();
}

// It should be dying; if not, it is of no use any more. Killed before its orders are closed: it would take that for the
// daemon's death, and shut the listen sockets down. In preload it may yet find out, and say why; or it is beyond that, and
// what it said is what was not understood.
void Generation::take_ill() {
  if (preloaded_) {
    child_.signal(SIGKILL);
    return close_ends();
  }
  if (!kill_timer_.is_set()) kill_after(kUntilDead, "has closed its channel");
  loop_.forget(reports_.fd());
  reports_.close();
}

void Generation::believe(Report report) {
  last_heard_ = monotonic_now();
  repeated_in_vain_ = 0;
  report.text[sizeof report.text - 1] = '\0';
  report.event = event_of_supervisor(report.event);
  if (report.type == ReportType::kReady && state_ == State::kStarting) state_ = State::kServing;
  if (!is_within_budget(report.type)) {
    if (is_state(report.type)) return put_off(report);
    left_out_ += 1 + (report.type == ReportType::kLog ? report.number : 0);
    return;
  }
  if (is_state(report.type)) left_out_ += std::exchange(put_off_, std::nullopt).has_value();
  if (left_out_ > 0 && last_heard_ >= say_left_out_at_) say_left_out();
  switch (report.type) {
    case ReportType::kAck:
      workers_ = static_cast<uint32_t>(std::max(report.level, 0));
      return note_ack(report.number);
    case ReportType::kPreloaded:
      preloaded_ = true;
      exec_timer_.drop();
      start_timer_.drop();
      break;
    case ReportType::kQuiet:
    case ReportType::kDrained:
      // Each counts once, of one that serves again and again, too. (After kDrained there is nothing to say.)
      if (drained_ || (quiet_ && report.type == ReportType::kQuiet)) return;
      quiet_ = true;
      drained_ = report.type == ReportType::kDrained;
      workers_ = report.number;
      break;
    default:
      break;
  }
  owner_->on_report(number_, report);
}

// What makes a line in the log is bounded: the lines themselves, and the few kinds that change a pool's state.
bool Generation::is_within_budget(ReportType type) {
  if (type == ReportType::kLog) return lines_.take(last_heard_);
  return !is_state(type) || states_.take(last_heard_);
}

void Generation::put_off(const Report& report) {
  left_out_ += put_off_.has_value();
  put_off_ = report;
  if (put_off_timer_.is_set()) return;
  put_off_timer_ = loop_.after(kSecond / kStatesPerSecond, [this] {
    if (put_off_) states_.take(monotonic_now());
    say_put_off();
  });
}

void Generation::say_put_off() {
  put_off_timer_ = {};
  if (const auto report = std::exchange(put_off_, std::nullopt))
    owner_->on_report(number_, *report);
}

void Generation::say_left_out() {
  log({LogLevel::kWarning, pool_, 0,
       std::to_string(std::exchange(left_out_, 0)) + " log lines of supervisor " +
           std::to_string(child_.pid) + " were left out: more than " +
           std::to_string(kLinesPerSecond) + " a second are not written"});
  say_left_out_at_ = last_heard_ + kSecond;
}

}  // namespace preforkd
