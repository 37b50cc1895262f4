#include "daemon/pool.h"

#include <sys/wait.h>

#include <algorithm>

#include "base/error.h"

namespace preforkd {
namespace {

constexpr int kMostLost = 16;                            // generations
constexpr Nanoseconds kRoomAgain = 1500 * kMillisecond;  // TERM, KILL, and a look
constexpr int kMostUnread = 8;                           // generations that are over
constexpr Nanoseconds kBeyondStart = 500 * kMillisecond;
constexpr Nanoseconds kLongLife =
    10 * kSecond;  // a supervisor that lived so long is replaced at once

}  // namespace

const char* pool_state_name(PoolState state) {
  constexpr const char* kNames[] = {"starting", "running", "degraded", "draining", "stopped"};
  return kNames[static_cast<int>(state)];
}

Pool::Pool(EventLoop& loop, PoolOwner& owner, const Paths& paths, PoolPlan plan, LogLevel log_level)
    : loop_(loop),
      owner_(owner),
      paths_(paths),
      plan_(std::move(plan)),
      log_level_(log_level),
      limits_(plan_.settings.limits) {}

void Pool::revert_at(Nanoseconds when) {
  revert_at_ = when;
  revert_timer_ = loop_.at(when, [this] { revert_limits(); });
}

void Pool::revert_limits() {
  log_line(LogLevel::kInfo, "limits are what they were before again");
  set_limits(limits_before_, limits_before_, 0, {});
}

Pool::~Pool() { forget_listeners(); }

// --- generations ---------------------------------------------------------------------------------

void Pool::start(const std::string& trouble) {
  set_socket_options();
  go_without();
  launch();
  if (trouble.empty()) return set_state(PoolState::kStarting);
  log_line(LogLevel::kError, "degraded: " + trouble, Event::kPoolDegraded);
  set_state(PoolState::kDegraded, trouble);
}

// As far as is known now.
void Pool::go_without() { plan_.goes_without = awaits_address() && plan_.has_address(); }

// One that is to follow another, which serves, is on trial until it is ready: that is with `min` workers, as there may be no room
// for more beside those of the other.
void Pool::launch() {
  GenerationOwner& owner = *this;
  const bool follows = generations_.in_charge() != nullptr;
  generations_.add(launch_generation(
      loop_, owner, paths_, plan_,
      {next_generation_, limits_, 0, log_level_, follows || plan_.waits(), capacity_}));
  ++next_generation_;
  capacity_ = generations_.newest()->capacity();
  launched_at_ = monotonic_now();
  forget_listeners();  // what one before had asked for
  if (follows) watch_listeners();
}

void Pool::launch_again() {
  if (finishing_) return;
  if (!has_room()) {
    const std::string reason =
        "waits for the end of one of the last " + std::to_string(kMostLost) + " generations";
    log_line(LogLevel::kWarning, reason, Event::kPoolDegraded);
    set_state(PoolState::kDegraded, reason);
    restart_timer_ = loop_.after(kRoomAgain, [this] { launch_again(); });
    return;
  }
  try {
    leave_to_next();
    launch();
    if (!generations_.newest()->is_on_trial()) leave_to_newest();
    // A degraded pool stays so until it is ready again; the reason is still the last thing known of it.
    if (state_ != PoolState::kDegraded && !generations_.in_charge())
      set_state(PoolState::kStarting);
    owner_.on_pool_changed(plan_.settings.name);
  } catch (const std::exception& e) {
    log_line(LogLevel::kError, e.what(), Event::kPoolDegraded);
    set_state(PoolState::kDegraded, e.what());
    restart_later();
  }
}

// Reloads may be as quick, and drains as long, as they like: who is told to leave does not count. But a supervisor that
// dies or leaves again and again may leave processes each time, which have timeouts.drain.
bool Pool::has_room() {
  if (generations_.count_lost() < kMostLost) return true;
  generations_.end_oldest_lost();
  return false;
}

// At once, but for those that come to grief again and again, or who would have to wait for an address at once.
void Pool::launch_soon(bool not_at_once) {
  if (monotonic_now() - launched_at_ >= kLongLife) failures_ = 0;
  if (not_at_once) return restart_later();
  if (state_ == PoolState::kRunning) failures_ = std::min(failures_, 1u);
  if (failures_ > 0) return restart_later();
  failures_ = 1;
  restart_timer_ = loop_.after(0, [this] { launch_again(); });
}

void Pool::restart_later() {
  failures_ = std::max(failures_, 1u);
  const Nanoseconds pause = spread(kRestart.after(failures_++), monotonic_now() >> 7);
  restart_timer_ = loop_.after(pause, [this] { launch_again(); });
}

void Pool::on_supervisor_death(uint32_t number, int status) {
  give_up_dropped();
  const bool is_replaced = restart_timer_.is_set();  // it had left by itself
  const std::string what =
      "supervisor of generation " + std::to_string(number) + " " + ending_text(status);
  if (!generations_.is_newest(number) || is_replaced) {
    const Generation* dead = generations_.numbered(number);
    if (dead && dead->is_lost() && !is_replaced)
      log_line(LogLevel::kError, what, Event::kSupervisorDied);
    follow_who_serves();
    look_again_after(number);
    return owner_.on_pool_changed(plan_.settings.name);
  }
  watch_listeners();
  if (finishing_ || state_ == PoolState::kDraining || state_ == PoolState::kStopped)
    return owner_.on_pool_changed(plan_.settings.name);
  launch_soon();
  // A supervisor that said why it failed has been logged, and its words are the better reason.
  if (state_ == PoolState::kDegraded && !reason_.empty()) return;
  log_line(LogLevel::kError, what, Event::kSupervisorDied);
  set_state(PoolState::kDegraded, what);
}

void Pool::on_over(uint32_t number) {
  log_line(LogLevel::kInfo, "generation " + std::to_string(number) + " has ended",
           Event::kGenerationEnded);
  give_up_dropped();
  look_again_after(number);
  // Not under the hands of the one that tells.
  unread_timer_ = loop_.after(0, [this] { drop_unread(); });
  if (generations_.are_over() && state_ == PoolState::kDraining)
    set_state(PoolState::kStopped);
  else
    owner_.on_pool_changed(plan_.settings.name);
}

void Pool::close_generation(uint32_t number, std::string base) {
  if (!generations_.close(number)) return;
  base_ = std::move(base);
  owner_.on_pool_changed(plan_.settings.name);
}

// Of those that are over, the oldest ones beyond the last kMostUnread.
void Pool::drop_unread() {
  bool any = false;
  while (const auto dropped = generations_.drop_oldest_over(kMostUnread)) {
    log_line(LogLevel::kWarning, "the figures of generation " + std::to_string(*dropped) +
                                     " are lost: control, which could read them, is not there");
    any = true;
  }
  if (any) owner_.on_pool_changed(plan_.settings.name);
}

bool Pool::owns(pid_t child, pid_t session) const {
  return generations_.owner_of(child, session) ||
         (trial_ && trial_->generation().owns(child, session));
}

bool Pool::has_dead_supervisor() const {
  const auto all = all_generations();
  return std::any_of(all.begin(), all.end(),
                     [](const auto* g) { return g->has_dead_supervisor(); });
}

bool Pool::child_changed(pid_t pid, int status) {
  Generation* g = generations_.supervised_by(pid);
  if (!g && trial_ && trial_->generation().is_supervised_by(pid)) g = &trial_->generation();
  if (!g) return false;
  if (WIFSTOPPED(status) || WIFCONTINUED(status))
    g->supervisor_stopped(WIFSTOPPED(status));
  else
    g->supervisor_died(status, plan_.settings.drain_timeout);
  return true;
}

bool Pool::orphan_ended(pid_t pid, pid_t session, int status) {
  Generation* g = generations_.owner_of(pid, session);
  if (g) g->orphan_ended(pid, status);
  return g != nullptr;
}

std::vector<const Generation*> Pool::all_generations() const {
  std::vector<const Generation*> all;
  for (const auto& g : generations_) all.push_back(g.get());
  if (trial_) all.push_back(&trial_->generation());
  return all;
}

bool Pool::is_serving() const {
  return !finishing_ && state_ != PoolState::kDraining && state_ != PoolState::kStopped;
}

bool Pool::is_settled() const { return !taking_over_ && !generations_.leavers_accept(); }

bool Pool::is_over() const { return !trial_ && generations_.are_over(); }

// --- what supervisors say ------------------------------------------------------------------------

void Pool::on_report(uint32_t number, const Report& report) {
  const bool newest = generations_.is_newest(number);
  switch (report.type) {
    case ReportType::kLog:
      log_report(plan_.settings.name, report);
      break;
    case ReportType::kFailed:
      on_failure(number, report.text);
      break;
    case ReportType::kReady:
    case ReportType::kRecovered:
      if (newest) follow_who_serves();
      if (awaits_address() || is_cut_off_) break;
      if (newest && (state_ == PoolState::kStarting || state_ == PoolState::kDegraded)) {
        log_line(LogLevel::kInfo, report.type == ReportType::kReady ? "ready" : "recovered",
                 state_ == PoolState::kDegraded ? Event::kPoolRecovered : Event::kPoolReady);
        set_state(PoolState::kRunning);
      }
      break;
    case ReportType::kDegraded:
      log_line(LogLevel::kWarning, std::string("degraded: ") + report.text,
               newest ? Event::kPoolDegraded : Event::kNone);
      if (newest) degraded_workers_ = report.number;
      if (newest && (state_ == PoolState::kStarting || state_ == PoolState::kRunning))
        set_state(PoolState::kDegraded, report.text);
      break;
    case ReportType::kQuiet:
    case ReportType::kDrained:
      give_up_dropped();
      owner_.on_pool_changed(plan_.settings.name);
      on_nobody_accepts(number);
      break;
    case ReportType::kWatchListen:
      if (Generation* g = generations_.in_charge(); g && g->number() == number) watch_listeners();
      break;
    case ReportType::kWorkerFailed:
      look_again_after(number);
      break;
    case ReportType::kPreloaded:
    case ReportType::kAck:
      break;
  }
}

// The newest has been launched while another served: it follows when it is ready, or when nobody serves any more.
void Pool::follow_who_serves() {
  Generation* g = generations_.current();
  if (!g || g->has_dead_supervisor() || !g->serves() || !g->is_on_trial()) return;
  if (plan_.waits() || !is_serving()) return;
  const bool is_ready = g->state() == Generation::State::kServing;
  if (!is_ready && generations_.in_charge()) return;
  leave_to_newest();
  tell_to_serve(*g);
  watch_listeners();
  if (is_ready) return newest_serves();
  if (state_ != PoolState::kDegraded) set_state(PoolState::kStarting);
}

void Pool::on_failure(uint32_t number, const std::string& reason) {
  const bool newest = generations_.is_newest(number);
  log_line(LogLevel::kError, reason, newest ? Event::kPoolDegraded : Event::kNone);
  if (newest) degraded_workers_ = 0;
  if (newest && !finishing_) set_state(PoolState::kDegraded, reason);
}

void Pool::on_failed_launch(uint32_t number, const LaunchFailure& failure) {
  on_failure(number, failure.text());
}

// A generation has no worker left that would accept. If nobody told it so (somebody sent its supervisor a TERM), the next
// one takes over: at once, or as soon as the addresses are had that it waits for.
void Pool::on_nobody_accepts(uint32_t number) {
  Generation* g = generations_.numbered(number);
  if (finishing_ || !g || !g->serves()) return;
  g->leaves_by_itself(plan_.settings.drain_timeout);
  const std::string what =
      "supervisor of generation " + std::to_string(number) + " leaves, told by somebody else";
  log_line(LogLevel::kWarning, what, Event::kSupervisorDied);
  if (g != generations_.newest()) return follow_who_serves();
  launch_soon(/*not_at_once=*/g->is_on_trial());
  if (state_ != PoolState::kRunning) set_state(PoolState::kDegraded, what);
}

// A worker of an older generation was in the same queue for wake-ups, and may have gone with one.
void Pool::look_again_after(uint32_t number) {
  Generation* g = generations_.in_charge();
  if (!g || g->number() == number) return;
  Order look;
  look.type = OrderType::kLookAgain;
  g->order(look);
}

// --- orders --------------------------------------------------------------------------------------

std::string Pool::drain() {
  if (state_ == PoolState::kDraining || state_ == PoolState::kStopped)
    return "pool " + plan_.settings.name + " is " + pool_state_name(state_) + " already";
  if (trial_) return "pool " + plan_.settings.name + " is being reloaded";
  if (awaits_address()) taking_over_ = false;
  restart_timer_ = {};
  forget_listeners();
  for (auto& g : generations_) g->drain(plan_.settings.drain_timeout, 0);
  set_state(is_over() ? PoolState::kStopped : PoolState::kDraining);
  return "";
}

std::string Pool::resume() {
  if (state_ != PoolState::kDraining && state_ != PoolState::kStopped)
    return "pool " + plan_.settings.name + " is " + pool_state_name(state_);
  failures_ = 0;
  go_without();
  try {
    launch();
  } catch (const std::exception& e) {
    return e.what();
  }
  set_state(PoolState::kStarting);
  return "";
}

void Pool::set_limits(const Limits& limits, const Limits& afterwards, Nanoseconds for_how_long,
                      OnDone on_done) {
  limits_ = limits;
  limits_before_ = afterwards;
  if (for_how_long || limits == afterwards) revert_timer_ = {};
  if (for_how_long && !(limits == afterwards)) revert_at(monotonic_now() + for_how_long);
  if (trial_) trial_->set_limits(limits);
  owner_.on_pool_changed(plan_.settings.name);
  Generation* g = generations_.current();
  Order o;
  o.type = OrderType::kLimits;
  o.limits = limits_;
  for (auto& other : generations_)  // who is in charge as long as that one waits
    if (other.get() != g && other->serves()) other->order(o);
  if (g && g->is_preloaded()) {
    g->order(o, [on_done](bool) {
      if (on_done) on_done();
    });
    return;
  }
  // It begins with them: one that preloads has no workers yet, and reads the order first of all.
  if (g) g->order(o);
  if (on_done) on_done();
}

void Pool::finish(const Listeners& keep_open) {
  if (trial_) abandon();
  finishing_ = true;
  if (awaits_address()) taking_over_ = false;
  restart_timer_ = {};
  revert_timer_ = {};
  forget_listeners();
  std::erase_if(plan_.listeners,
                [&](const auto& listener) { return contains(keep_open, listener); });
  leave(plan_.listeners);
  set_state(is_over() ? PoolState::kStopped : PoolState::kDraining);
}

void Pool::leave(const Listeners& dropped) {
  for (const auto& listener : dropped) listener->close_the_door();
  dropped_.insert(dropped_.end(), dropped.begin(), dropped.end());
  for (auto& g : generations_)
    if (g->serves()) g->drain(plan_.settings.drain_timeout, g->bits_of(dropped));
  give_up_dropped();
}

// The sockets are shut down last: to a worker one that is shut down under its hands is broken.
void Pool::stop_now() {
  if (trial_) abandon();
  finishing_ = true;
  restart_timer_ = {};
  forget_listeners();
  dropped_ = plan_.listeners;
  for (auto& g : generations_) g->stop();
  give_up_dropped();
  if (state_ != PoolState::kStopped) set_state(PoolState::kDraining);
}

void Pool::kill_all() {
  for (auto& g : generations_) g->kill_all();
}

// --- the state -----------------------------------------------------------------------------------

void Pool::ping() {
  Order o;
  o.type = OrderType::kPing;
  for (auto& g : generations_) g->order(o);
}

void Pool::set_state(PoolState state, std::string reason) {
  if (state == PoolState::kStarting && state_ != state) limit_start();
  if (state != PoolState::kStarting) start_timer_.drop();
  state_ = state;
  reason_ = std::move(reason);
  is_cut_off_ = false;
  owner_.on_pool_changed(plan_.settings.name);
}

// A little more than its preload has, whose end says more.
void Pool::limit_start() {
  const Nanoseconds timeout = plan_.settings.start_timeout;
  start_timer_.drop();
  if (timeout == 0) return;
  start_timer_.set_after(timeout + kBeyondStart, [this, timeout] {
    const std::string reason =
        "not ready in " + std::to_string(timeout / kMillisecond) + " ms (timeouts.start)";
    log_line(LogLevel::kWarning, "degraded: " + reason, Event::kPoolDegraded);
    set_state(PoolState::kDegraded, reason);
  });
}

void Pool::log_line(LogLevel level, const std::string& text, Event event) const {
  log({level, plan_.settings.name, 0, text, event});
}

}  // namespace preforkd
