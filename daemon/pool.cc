#include "daemon/pool.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "conf/pool_json.h"
#include "daemon/supervisor_args.h"
#include "shm/region.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kFirstPause = 100 * kMillisecond;
constexpr Nanoseconds kLongestPause = 10 * kSecond;
constexpr Nanoseconds kWatchAgain = 1 * kSecond;
constexpr Nanoseconds kLongLife =
    10 * kSecond;  // a supervisor that lived so long is replaced at once

std::string ending(int status) {
  if (WIFSIGNALED(status))
    return std::string("killed by signal ") + std::to_string(WTERMSIG(status)) + " (" +
           strsignal(WTERMSIG(status)) + ")";
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

const char* pool_state_name(PoolState state) {
  constexpr const char* kNames[] = {"starting", "running", "degraded", "draining", "stopped"};
  return kNames[static_cast<int>(state)];
}

Pool::Pool(EventLoop& loop, PoolOwner& owner, const Paths& paths, PoolSettings settings,
           EffectiveUser user, std::vector<Listener> listeners, LogLevel log_level)
    : loop_(loop),
      owner_(owner),
      paths_(paths),
      settings_(std::move(settings)),
      user_(std::move(user)),
      listeners_(std::move(listeners)),
      log_level_(log_level),
      limits_(settings_.limits) {}

Pool::~Pool() {
  forget_listeners();
  loop_.cancel(revert_timer_);
  loop_.cancel(restart_timer_);
}

// --- generations ---------------------------------------------------------------------------------

void Pool::start() {
  launch_generation();
  set_state(PoolState::kStarting);
}

void Pool::launch_generation() {
  const uint32_t capacity = shm::capacity_for(std::max(settings_.limits.max, limits_.max));
  shm::SegmentFds segment = shm::create_segment(capacity);
  auto [ours, theirs] = Channel::make_pair();
  PoolSettings settings = settings_;
  settings.limits = limits_;
  if (!settings.handler.empty()) settings.handler = paths_.handler_file(settings.handler);
  UniqueFd document = make_document(pool_to_json(settings));
  // The pool's user may not be able to search the folders above it.
  UniqueFd handler;
  if (!settings.handler.empty())  // O_NONBLOCK: should it be a pipe, nobody is there to write
    handler.reset(open(settings.handler.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));

  SupervisorArgs args;
  args.generation = next_generation_;
  args.capacity = capacity;
  args.listen_sockets = static_cast<uint32_t>(listeners_.size());
  args.own_sockets = static_cast<uint32_t>(
      std::count_if(listeners_.begin(), listeners_.end(),
                    [](const Listener& listener) { return !listener.is_inherited(); }));
  args.log_level = static_cast<int>(log_level_);
  Launch what;
  what.executable = paths_.supervisor;
  what.argv = args.to_argv("preforkd: supervisor " + settings_.name);
  what.descriptors = {theirs.get(), document.get(), segment.read_write.get(), handler.get()};
  for (bool inherited : {false, true})
    for (const Listener& listener : listeners_)
      if (listener.is_inherited() == inherited) what.descriptors.push_back(listener.fd());
  what.user = user_;

  GenerationOwner& owner = *this;
  generations_.push_back(std::make_unique<Generation>(loop_, owner, next_generation_,
                                                      settings_.name, launch(what), std::move(ours),
                                                      std::move(segment.read_only)));
  ++next_generation_;
  capacity_ = capacity;
  launched_at_ = monotonic_now();
  forget_listeners();  // what the one before had asked for
}

// The newest one, if it has a supervisor.
Generation* Pool::current() {
  if (generations_.empty() || !generations_.back()->has_supervisor()) return nullptr;
  return generations_.back().get();
}

void Pool::launch_again() {
  restart_timer_ = {};
  try {
    launch_generation();
    // A degraded pool stays so until it is ready again; the reason is still the last thing known of it.
    if (state_ != PoolState::kDegraded) set_state(PoolState::kStarting);
    owner_.on_pool_changed(settings_.name);
  } catch (const std::exception& e) {
    log_line(LogLevel::kError, e.what());
    set_state(PoolState::kDegraded, e.what());
    restart_later();
  }
}

void Pool::restart_later() {
  pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
  // ± 25 %, so that pools that died together do not come back in step.
  Nanoseconds jitter = pause_ / 2 * ((monotonic_now() >> 7) % 1024) / 1024;
  restart_timer_ = loop_.after(pause_ * 3 / 4 + jitter, [this] { launch_again(); });
}

void Pool::on_supervisor_death(uint32_t number, int status) {
  if (generations_.back()->number() != number) return owner_.on_pool_changed(settings_.name);
  forget_listeners();
  if (finishing_) on_nobody_accepts();
  if (finishing_ || state_ == PoolState::kDraining || state_ == PoolState::kStopped)
    return owner_.on_pool_changed(settings_.name);
  const std::string what =
      "supervisor of generation " + std::to_string(number) + " " + ending(status);
  // A supervisor that said why it failed has been logged, and its words are the better reason.
  if (state_ != PoolState::kDegraded || reason_.empty()) {
    log_line(LogLevel::kError, what);
    set_state(PoolState::kDegraded, what);
  }
  if (monotonic_now() - launched_at_ >= kLongLife) pause_ = 0;
  if (pause_ == 0) {
    pause_ = kFirstPause / 2;
    restart_timer_ = loop_.after(0, [this] { launch_again(); });
  } else {
    restart_later();
  }
}

void Pool::on_over(uint32_t) {
  bool any = std::any_of(generations_.begin(), generations_.end(),
                         [](const auto& g) { return g->state() != Generation::State::kOver; });
  if (!any && state_ == PoolState::kDraining)
    set_state(PoolState::kStopped);
  else
    owner_.on_pool_changed(settings_.name);
}

void Pool::close_generation(uint32_t number, std::string base) {
  auto closed = std::find_if(generations_.begin(), generations_.end(), [&](const auto& g) {
    return g->number() == number && g->state() == Generation::State::kOver;
  });
  if (closed == generations_.end()) return;
  generations_.erase(closed);
  base_ = std::move(base);
  owner_.on_pool_changed(settings_.name);
}

bool Pool::reaped(pid_t pid, int status) {
  for (auto& g : generations_) {
    if (!g->has_supervisor() || g->supervisor() != pid) continue;
    g->supervisor_died(status, settings_.drain_timeout);
    return true;
  }
  return false;
}

bool Pool::is_over() const {
  return std::all_of(generations_.begin(), generations_.end(),
                     [](const auto& g) { return g->state() == Generation::State::kOver; });
}

// --- what supervisors say ------------------------------------------------------------------------

void Pool::on_report(uint32_t number, const Report& report) {
  const bool newest = generations_.back()->number() == number;
  switch (report.type) {
    case ReportType::kLog:
      if (report.number)
        log_line(LogLevel::kWarning, std::to_string(report.number) + " log lines were lost");
      log_line(static_cast<LogLevel>(std::clamp(report.level, 3, 7)), report.text, report.pid);
      break;
    case ReportType::kFailed:
      log_line(LogLevel::kError, report.text);
      if (newest && !finishing_) set_state(PoolState::kDegraded, report.text);
      break;
    case ReportType::kReady:
    case ReportType::kRecovered:
      if (newest && (state_ == PoolState::kStarting || state_ == PoolState::kDegraded)) {
        log_line(LogLevel::kInfo, report.type == ReportType::kReady ? "ready" : "recovered");
        set_state(PoolState::kRunning);
      }
      break;
    case ReportType::kDegraded:
      log_line(LogLevel::kWarning, std::string("degraded: ") + report.text);
      if (newest && (state_ == PoolState::kStarting || state_ == PoolState::kRunning))
        set_state(PoolState::kDegraded, report.text);
      break;
    case ReportType::kQuiet:
    case ReportType::kDrained:
      if (newest) on_nobody_accepts();
      break;
    case ReportType::kWatchListen:
      if (newest && generations_.back()->serves()) watch_listeners(number);
      break;
    case ReportType::kPreloaded:
    case ReportType::kAck:
      break;
  }
}

// The newest generation has no worker left that would accept. If it was told so because we end, new clients
// are refused from now on. If nobody told it (somebody sent its supervisor a TERM), the next one takes over.
void Pool::on_nobody_accepts() {
  if (finishing_) {
    for (Listener& listener : listeners_) listener.give_up();
  } else if (generations_.back()->serves()) {
    generations_.back()->leaves_by_itself();
    launch_again();
  }
}

// One shot: the first connection on any of the sockets ends the watch.
void Pool::watch_listeners(uint32_t number) {
  forget_listeners();
  auto say_readable = [this, number](uint32_t) {
    forget_listeners();
    Generation* g = current();
    if (!g || g->number() != number) return;
    Order readable;
    readable.type = OrderType::kReadable;
    g->order(readable);
  };
  watching_ = true;
  try {
    for (const Listener& listener : listeners_) loop_.watch(listener.fd(), EPOLLIN, say_readable);
  } catch (const SysError& e) {  // out of memory, or of epoll watches: it will ask again
    log_line(LogLevel::kError, e.what());
    watch_timer_ = loop_.after(kWatchAgain, [say_readable] { say_readable(0); });
  }
}

void Pool::forget_listeners() {
  loop_.cancel(watch_timer_);
  if (!watching_) return;
  watching_ = false;
  for (const Listener& listener : listeners_) loop_.forget(listener.fd());
}

// --- orders --------------------------------------------------------------------------------------

std::string Pool::drain() {
  if (state_ == PoolState::kDraining || state_ == PoolState::kStopped)
    return "pool " + settings_.name + " is " + pool_state_name(state_) + " already";
  loop_.cancel(restart_timer_);
  forget_listeners();
  for (auto& g : generations_) g->drain(settings_.drain_timeout, false);
  set_state(is_over() ? PoolState::kStopped : PoolState::kDraining);
  return "";
}

std::string Pool::resume() {
  if (state_ != PoolState::kDraining && state_ != PoolState::kStopped)
    return "pool " + settings_.name + " is " + pool_state_name(state_);
  pause_ = 0;
  try {
    launch_generation();
  } catch (const std::exception& e) {
    return e.what();
  }
  set_state(PoolState::kStarting);
  return "";
}

void Pool::set_limits(const Limits& limits, Nanoseconds for_how_long, OnDone on_done) {
  const bool reverting = revert_timer_.second != 0;
  if (for_how_long && !reverting) limits_before_ = limits_;
  loop_.cancel(revert_timer_);
  if (for_how_long)
    revert_timer_ = loop_.after(for_how_long, [this] {
      revert_timer_ = {};
      log_line(LogLevel::kInfo, "limits are what they were before again");
      set_limits(limits_before_, 0, {});
    });
  limits_ = limits;
  owner_.on_pool_changed(settings_.name);
  Generation* g = current();
  if (!g) {
    if (on_done) on_done();
    return;
  }
  Order o;
  o.type = OrderType::kLimits;
  o.limits = limits_;
  g->order(o, [on_done](bool) {
    if (on_done) on_done();
  });
}

void Pool::finish() {
  finishing_ = true;
  loop_.cancel(restart_timer_);
  loop_.cancel(revert_timer_);
  forget_listeners();
  for (Listener& listener : listeners_) listener.close_the_door();
  bool anybody_accepts = false;
  for (auto& g : generations_) {
    if (!g->serves()) continue;
    anybody_accepts |= g->may_accept();
    g->drain(settings_.drain_timeout, true);
  }
  if (!anybody_accepts)
    for (Listener& listener : listeners_) listener.give_up();
  set_state(is_over() ? PoolState::kStopped : PoolState::kDraining);
}

void Pool::stop_now() {
  finishing_ = true;
  loop_.cancel(restart_timer_);
  forget_listeners();
  bool anybody_accepts = false;
  for (auto& g : generations_) {
    anybody_accepts |= g->may_accept();
    g->stop();
  }
  // Not before the workers were told: to them a socket that is shut down under their hands is broken.
  if (!anybody_accepts)
    for (Listener& listener : listeners_) listener.give_up();
  if (state_ != PoolState::kStopped) set_state(PoolState::kDraining);
}

void Pool::kill_all() {
  for (auto& g : generations_) g->kill_all();
}

void Pool::ping() {
  Generation* g = current();
  Order o;
  o.type = OrderType::kPing;
  if (g) g->order(o);
}

void Pool::set_state(PoolState state, std::string reason) {
  state_ = state;
  reason_ = std::move(reason);
  owner_.on_pool_changed(settings_.name);
}

void Pool::log_line(LogLevel level, const std::string& text, pid_t worker) const {
  log({level, settings_.name, worker, text});
}

}  // namespace preforkd
