#include "supervisor/template.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/program_end.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr Backoff kStartAgain = {100 * kMillisecond, 30 * kSecond};
constexpr Nanoseconds kStoppedTooLong = 5 * kSecond;
constexpr Nanoseconds kUntilDead = 1 * kSecond;

// {the supervisor's end, the template's}. The first one tells of what comes by SIGIO.
std::pair<UniqueFd, UniqueFd> make_channel() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    throw SysError("socketpair", errno);
  std::pair<UniqueFd, UniqueFd> pair(ends[0], ends[1]);
  fcntl(ends[0], F_SETOWN, getpid());
  fcntl(ends[0], F_SETFL, O_NONBLOCK | O_ASYNC);
  return pair;
}

}  // namespace

Template::Template(const WorkerPlan& plan, shm::Scoreboard& board, const Standstills& standstills,
                   std::function<void()> before_exec)
    : plan_(plan), board_(board), standstills_(standstills), before_exec_(std::move(before_exec)) {
  if (is_configured()) publish(monotonic_now());
}

Nanoseconds Template::look(Nanoseconds now) {
  if (!is_configured()) return kNever;
  if (state_ == State::kNone && pid_ == 0 && !is_over()) {
    if (now < start_at_) return start_at_;
    start(now);
    if (pid_ == 0) return start_at_;
  }
  receive(now);
  return end_if_late(now);
}

// --- its start -----------------------------------------------------------------------------------

void Template::start(Nanoseconds now) {
  ++failures_;  // until it has proved itself
  start_at_ = now + spread(kStartAgain.after(failures_), static_cast<uint64_t>(now >> 7));
  said_.clear();
  try {
    auto [ours, its] = make_channel();
    const AllSignalsBlocked over_the_fork;
    const pid_t pid = ::fork();
    if (pid == 0) be_template(its.get());
    if (pid < 0) throw SysError("fork", errno);
    setpgid(pid, pid);  // whoever of the two comes first
    channel_ = std::move(ours);
    pid_ = pid;
  } catch (const SysError& e) {
    trouble_ = e.what();
    return;
  }
  state_ = State::kStarting;
  since_ = waited_since_ = now;
  board_.count_template();
  publish(now);
}

void Template::be_template(int channel) const {
  std::string reason;
  try {
    before_exec_();
    system_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != plan_.supervisor) _exit(0);
    become_own_process(plan_);
    reason = plan_.serving()->become_template(channel);
  } catch (const std::exception& e) {
    reason = e.what();
  }
  log_error(reason);
  _exit(static_cast<int>(ExitCode::kInternal));
}

// --- what it says --------------------------------------------------------------------------------

void Template::receive(Nanoseconds now) {
  while (channel_.is_open()) {
    TemplateReport report;
    const ssize_t size = recv(channel_.get(), &report, sizeof report, MSG_TRUNC);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) return channel_.reset();  // its death follows; or it is late with the next order
    if (size != sizeof report) return end("has said what is no report", now);
    report.text[sizeof report.text - 1] = 0;
    obey(report, now);
  }
}

void Template::obey(const TemplateReport& report, Nanoseconds now) {
  const bool is_answer = report.type == TemplateReportType::kDone && is_at_work_ &&
                         !is_order_over_ && report.number == orders_;
  if (is_answer) {
    is_order_over_ = true;
    order_error_ = std::clamp(report.error, 0, 4095);
  } else if (report.type == TemplateReportType::kStands && state_ == State::kStarting) {
    state_ = State::kStanding;
    since_ = now;
    waited_since_ = 0;
    if (was_trouble_of_start_) trouble_.clear();
    publish(now);
  } else if (report.type == TemplateReportType::kCannot) {
    said_ = program_name() + " cannot be preloaded: " + without_controls(report.text);
    end("", now);
  } else {
    end("has said what nobody asked", now);
  }
}

// --- orders --------------------------------------------------------------------------------------

bool Template::order(const std::vector<uint32_t>& slots, Nanoseconds now) {
  TemplateOrder order;
  order.number = ++orders_;
  order.count = static_cast<uint32_t>(slots.size());
  std::copy(slots.begin(), slots.end(), order.slots);
  if (send(channel_.get(), &order, sizeof order, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof order) {
    end("takes no order", now);
    return false;
  }
  awaited_ = slots;
  is_at_work_ = true;
  waited_since_ = now;
  return true;
}

// One that makes workers is good, whatever ends it: the next one is started at once.
void Template::note_found(uint32_t slot, Nanoseconds now) {
  std::erase(awaited_, slot);
  waited_since_ = now;
  failures_ = 0;
  if (!trouble_.empty()) log_notice(program_name() + " is forked from again");
  trouble_.clear();
}

int Template::close_order(Nanoseconds now) {
  // Whoever says that it is done, and has not done it, would be asked again for ever.
  if (state_ == State::kStanding && !ends_since_ && !awaited_.empty() && order_error_ == 0)
    end("has made fewer workers than it says", now);
  awaited_.clear();
  is_at_work_ = is_order_over_ = false;
  if (state_ == State::kStanding) waited_since_ = 0;
  return std::exchange(order_error_, 0);
}

// --- its end -------------------------------------------------------------------------------------

Nanoseconds Template::end_if_late(Nanoseconds now) {
  if (pid_ == 0) return kNever;
  if (ends_since_) {  // who is held by the kernel makes nobody
    if (now >= ends_since_ + kUntilDead) is_order_over_ = is_at_work_;
    return is_at_work_ && !is_order_over_ ? ends_since_ + kUntilDead : kNever;
  }
  Nanoseconds next = kNever;
  auto has_passed = [&](Nanoseconds since, Nanoseconds timeout) {
    const Nanoseconds until = since + timeout + standstills_.since(since);
    if (now < until) next = std::min(next, next_look(until, now));
    return now >= until;
  };
  const Nanoseconds timeout = plan_.settings.start_timeout;
  if (stopped_at_ && has_passed(stopped_at_, kStoppedTooLong)) {
    end("has been stopped for 5 s", now);
  } else if (waited_since_ && timeout && has_passed(waited_since_, timeout)) {
    const std::string time = std::to_string(timeout / kMillisecond) + " ms (timeouts.start)";
    end((state_ == State::kStarting ? "did not come to its first preforkd_accept() in "
                                    : "has made no worker in ") +
            time,
        now);
  }
  return next;
}

bool Template::was(pid_t changed, int status, Nanoseconds now) {
  if (pid_ == 0 || changed != pid_) return false;
  if (WIFSTOPPED(status)) stopped_at_ = now;
  if (WIFCONTINUED(status)) stopped_at_ = 0;
  if (!WIFEXITED(status) && !WIFSIGNALED(status)) return true;
  receive(now);  // its last words
  if (said_.empty())
    said_ = "template " + program_name() + (WIFSIGNALED(status) ? " was " : " ") +
            program_end_text(status);
  if (!is_over()) {
    log_warning(said_, Event::kTemplateDied);
    board_.count_lost_template();
    note_trouble();
    start_at_ = failures_ == 0 ? now : std::max(start_at_, now);
  }
  channel_.reset();
  pid_ = 0;
  state_ = State::kNone;
  stopped_at_ = waited_since_ = ends_since_ = 0;
  is_order_over_ = is_at_work_;
  publish(now);
  return true;
}

void Template::end(const std::string& why, Nanoseconds now) {
  if (pid_ == 0) return;
  if (said_.empty()) said_ = "template " + program_name() + " " + why + ": killed";
  note_trouble();
  channel_.reset();
  ends_since_ = now;
  kill(pid_, SIGKILL);
}

// It has not come to its point, or was to make workers and has made none.
void Template::note_trouble() {
  const bool stood = state_ == State::kStanding;
  if (failures_ == 0 || (stood && !is_at_work_)) return;
  trouble_ = said_;
  was_trouble_of_start_ = !stood;
}

void Template::end_group() const { kill(-pid_, SIGKILL); }

void Template::stop() {
  if (is_over()) return;
  over_since_ = monotonic_now();
  if (pid_ == 0) return;
  ends_since_ = over_since_;
  kill(pid_, SIGKILL);
}

bool Template::has_left(Nanoseconds now) const {
  return pid_ == 0 || (is_over() && now >= over_since_ + kUntilDead);
}

void Template::publish(Nanoseconds now) {
  shm::Published& published = board_.segment().published;
  published.template_pid.store(static_cast<uint32_t>(pid_));
  published.template_state.store(static_cast<uint32_t>(state_));
  published.template_since.store(now);
}

// "app.py": of an interpreter's what it runs.
std::string Template::program_name() const {
  const std::vector<std::string>& argv = plan_.settings.serve;
  auto base = [](const std::string& path) { return path.substr(path.rfind('/') + 1); };
  const bool is_script =
      argv.size() > 1 && argv[1].find('.') != std::string::npos && !argv[1].starts_with('-');
  return base(is_script ? argv[1] : argv[0]);
}

}  // namespace preforkd
