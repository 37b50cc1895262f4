#include "daemon/generation.h"

#include <signal.h>
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "daemon/session.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kRepeat = 1 * kSecond;
// Counted, not measured: while the daemon stands still (a machine that is paused) its supervisors do, too.
constexpr int kRepeatedInVain = 5;
constexpr Nanoseconds kStoppedTooLong = 5 * kSecond;
constexpr Nanoseconds kUntilDead = 1 * kSecond;
constexpr Nanoseconds kUntilExecuted = 5 * kSecond;
constexpr Nanoseconds kBeyondDrain = 5 * kSecond;
constexpr int kMostAtOnce = 64;  // reports read before others have their turn

std::vector<ino_t> inodes_of(const Listeners& sockets) {
  std::vector<ino_t> inodes;
  for (const auto& socket : sockets) inodes.push_back(socket->inode());
  return inodes;
}

}  // namespace

Generation::Generation(EventLoop& loop, GenerationOwner& owner, Parts parts)
    : loop_(loop),
      owner_(&owner),
      number_(parts.number),
      capacity_(parts.capacity),
      uid_(parts.uid),
      pool_(std::move(parts.pool)),
      success_(std::move(parts.success)),
      child_(std::move(parts.child)),
      orders_(std::move(parts.orders)),
      reports_(std::move(parts.reports)),
      segment_(std::move(parts.read_only_segment)),
      log_pipe_(std::move(parts.log_pipe)),
      sockets_(std::move(parts.sockets)),
      inodes_(inodes_of(sockets_)),
      on_trial_(parts.on_trial) {
  watch_reports();
  wait_for_start(parts.start_timeout);
}

GenerationRecord Generation::record() const {
  GenerationRecord r;
  r.number = number_;
  r.capacity = capacity_;
  r.workers = workers_;
  r.next_order = next_order_;
  r.pid = child_.pid;
  r.orders = orders_.fd();
  r.reports = reports_.fd();
  r.segment = segment_.get();
  r.state = static_cast<int>(state_);
  r.on_trial = on_trial_;
  r.preloaded = preloaded_;
  r.quiet = quiet_;
  r.was_told = was_told_;
  r.stopped = kill_timer_.is_set();
  r.start_until = start_timer_.is_set() ? start_timer_.until() : kNever;
  if (r.start_until == kNever && !child_.has_executed()) r.start_until = exec_timer_.until();
  r.drain_until = drain_timer_.until();
  r.orphans_until = orphans_until_;
  r.uid = uid_;
  r.inodes.assign(inodes_.begin(), inodes_.end());
  r.claimed.assign(claimed_.begin(), claimed_.end());
  r.success = success_;
  r.ended_programs = ended_programs_;
  if (log_pipe_) r.log = log_pipe_->record();
  return r;
}

Generation::Generation(EventLoop& loop, GenerationOwner& owner, std::string pool,
                       const GenerationRecord& record, Listeners sockets,
                       std::shared_ptr<LogPipe> log_pipe)
    : loop_(loop),
      owner_(&owner),
      number_(record.number),
      capacity_(record.capacity),
      uid_(record.uid),
      pool_(std::move(pool)),
      success_(record.success),
      orders_(UniqueFd(record.orders)),
      reports_(UniqueFd(record.reports)),
      segment_(record.segment),
      log_pipe_(std::move(log_pipe)),
      sockets_(std::move(sockets)),
      inodes_(record.inodes.begin(), record.inodes.end()),
      state_(static_cast<State>(record.state)),
      on_trial_(record.on_trial),
      preloaded_(record.preloaded),
      quiet_(record.quiet),
      was_told_(record.was_told),
      workers_(record.workers),
      next_order_(record.next_order),
      orphans_until_(record.orphans_until),
      claimed_(record.claimed.begin(), record.claimed.end()),
      ended_programs_(record.ended_programs) {
  child_.pid = record.pid;  // its workers are known by it when it is gone
  if (has_supervisor()) child_ = existing_child(record.pid);
  if (reports_.is_open()) watch_reports();
  if (has_supervisor() && !reports_.is_open())
    kill_after(kUntilDead, "has closed its channel");
  else if (record.stopped)
    supervisor_stopped(true);  // waitpid() says it once
  if (has_supervisor() && !preloaded_ && record.start_until != kNever)
    start_timer_.set_at(record.start_until, [this] { start_took_too_long(); });
  if (has_supervisor() && record.drain_until != kNever) limit_drain(record.drain_until);
  if (state_ == State::kOrphaned) orphan_timer_ = loop_.after(0, [this] { wait_for_orphans(); });
}

Generation::~Generation() { close_ends(); }

void Generation::close_ends() {
  reports_timer_ = {};
  if (reports_.is_open()) loop_.forget(reports_.fd());
  reports_.close();
  orders_.close();
}

// --- its start -----------------------------------------------------------------------------------

void Generation::wait_for_start(Nanoseconds timeout) {
  const Nanoseconds now = monotonic_now();
  exec_timer_.set_at(now + (timeout ? std::min(kUntilExecuted, timeout) : kUntilExecuted), [this] {
    if (!child_.has_executed())
      end_start(
          "could not be executed in time: its user has stopped it, or the folder that it is"
          " to work in, or that its handler is in, does not answer");
  });
  if (timeout) start_timer_.set_at(now + timeout, [this] { start_took_too_long(); });
}

void Generation::start_took_too_long() {
  const bool is_ended = exec_timer_.until() != kNever && !child_.has_executed();
  if (!preloaded_ && !is_ended) end_start("did not get through preload in time (timeouts.start)");
}

// Its owner takes this for what it would have said itself.
void Generation::end_start(const std::string& reason) {
  Report report;
  report.type = ReportType::kFailed;
  const std::string text =
      "supervisor " + std::to_string(child_.pid) + " " + reason + ": it is killed";
  text.copy(report.text, sizeof report.text - 1);
  child_.signal(SIGKILL);
  owner_->on_report(number_, report);
}

// --- orders --------------------------------------------------------------------------------------

void Generation::order(Order order, OnDone on_done) {
  if (!has_supervisor()) {
    if (on_done) on_done(false);
    return;
  }
  if (order.type == OrderType::kServe) on_trial_ = false;
  order.number = next_order_++;
  replace_older(order, on_done);
  if (outstanding_.empty()) repeated_in_vain_ = 0;  // silence counts from here
  outstanding_.emplace(order.number, Outstanding{order, std::move(on_done)});
  send(order);
  if (!repeat_timer_.is_set()) repeat_timer_ = loop_.after(kRepeat, [this] { repeat_orders(); });
}

// An older order of the same kind must not be repeated after this one: it would undo it.
void Generation::replace_older(Order order, OnDone& on_done) {
  for (auto it = outstanding_.begin(); it != outstanding_.end();) {
    if (it->second.order.type != order.type) {
      ++it;
      continue;
    }
    if (it->second.on_done)
      on_done = [older = std::move(it->second.on_done), newer = std::move(on_done)](bool obeyed) {
        older(obeyed);
        if (newer) newer(obeyed);
      };
    it = outstanding_.erase(it);
  }
}

void Generation::send(const Order& order) {
  orders_.send_struct(order);  // full or gone: the repetition, or the death, will tell
}

void Generation::note_ack(uint32_t number) {
  auto found = outstanding_.find(number);
  if (found == outstanding_.end()) return;  // of a repetition
  OnDone on_done = std::move(found->second.on_done);
  outstanding_.erase(found);
  if (outstanding_.empty()) repeat_timer_ = {};
  if (on_done) on_done(true);
}

void Generation::repeat_orders() {
  if (outstanding_.empty() || !has_supervisor()) return;
  if (preloaded_ && ++repeated_in_vain_ >= kRepeatedInVain) {
    log({LogLevel::kError, pool_, 0,
         "supervisor " + std::to_string(child_.pid) + " has been silent for 5 s: killed",
         Event::kSupervisorSilent});
    child_.signal(SIGKILL);
    return;
  }
  for (const auto& [number, waiting] : outstanding_) send(waiting.order);
  repeat_timer_ = loop_.after(kRepeat, [this] { repeat_orders(); });
}

void Generation::drain(Nanoseconds timeout, uint64_t finish) {
  was_told_ = true;
  if (!serves()) return;
  state_ = State::kDraining;
  drain_again(timeout, finish);
}

void Generation::drain_again(Nanoseconds timeout, uint64_t finish) {
  limit_drain(monotonic_now() + timeout + kBeyondDrain);
  // One that still preloads has served nobody, and would not read the order for long.
  if (!preloaded_) return child_.signal(SIGKILL);
  Order o;
  o.type = OrderType::kDrain;
  o.drain = timeout;
  o.finish = finish;
  order(o);
}

void Generation::leaves_by_itself(Nanoseconds timeout) {
  state_ = State::kDraining;
  limit_drain(monotonic_now() + timeout + kBeyondDrain);
}

bool Generation::has_current_sockets() const { return inodes_of(sockets_) == inodes_; }

uint64_t Generation::bits_of(const Listeners& some) const {
  uint64_t bits = 0;
  for (size_t i = 0; i < sockets_.size() && i < 64; ++i)
    if (contains(some, sockets_[i])) bits |= uint64_t{1} << i;
  return bits;
}

void Generation::stop() {
  was_told_ = true;
  if (!has_supervisor()) return kill_all();
  state_ = State::kDraining;
  limit_drain(monotonic_now() + kBeyondDrain);
  if (!preloaded_) return child_.signal(SIGKILL);
  Order o;
  o.type = OrderType::kStop;
  order(o);
}

// Whatever it acknowledges.
void Generation::limit_drain(Nanoseconds until) {
  drain_timer_.set_at(until, [this] {
    log({LogLevel::kError, pool_, 0,
         "supervisor " + std::to_string(child_.pid) +
             (was_told_ ? " was told to leave and has not" : " says that it leaves and has not") +
             ": it is killed, and its workers with it",
         Event::kSupervisorSilent});
    kill_all();
  });
}

void Generation::kill_all() {
  if (has_supervisor()) child_.signal(SIGKILL);
  signal_session(child_.pid, SIGKILL);
  orphans_until_ = 0;
}

void Generation::end_early() {
  is_ended_early_ = true;
  if (has_supervisor()) child_.signal(SIGKILL);
  orphans_until_ = std::min(orphans_until_, monotonic_now());
}

// --- the end -------------------------------------------------------------------------------------

void Generation::supervisor_stopped(bool stopped) {
  if (!reports_.is_open()) return;  // it is killed anyway
  kill_timer_.drop();
  if (!stopped) return;
  if (!told_stopped_)
    log({LogLevel::kWarning, pool_, 0,
         "supervisor " + std::to_string(child_.pid) + " was stopped by a signal",
         Event::kSupervisorSilent});
  told_stopped_ = true;
  kill_after(kStoppedTooLong, "has been stopped for 5 s");
}

void Generation::kill_after(Nanoseconds delay, const std::string& why) {
  kill_timer_.set_after(delay, [this, why] {
    log({LogLevel::kError, pool_, 0,
         "supervisor " + std::to_string(child_.pid) + " " + why + ": killed",
         Event::kSupervisorSilent});
    child_.signal(SIGKILL);
  });
}

void Generation::supervisor_died(int status, Nanoseconds patience) {
  is_reaped_ = true;
  for (int i = 0; i < kMostAtOnce && reports_.is_open(); ++i) read_reports();  // its last words
  close_ends();
  repeat_timer_ = {};
  for (auto* timer : {&kill_timer_, &exec_timer_, &start_timer_, &drain_timer_}) timer->drop();
  say_put_off();
  if (left_out_ > 0) say_left_out();
  if (auto failure = child_.failure()) owner_->on_failed_launch(number_, *failure);
  state_ = State::kOrphaned;
  orphans_until_ = std::min(orphans_until_, monotonic_now() + patience);
  if (drain_timer_.until() != kNever)
    orphans_until_ = std::min(orphans_until_, drain_timer_.until() - kBeyondDrain);
  auto waiting = std::move(outstanding_);
  outstanding_.clear();
  for (auto& [number, entry] : waiting)
    if (entry.on_done) entry.on_done(false);
  owner_->on_supervisor_death(number_, status);
  wait_for_orphans();
}

}  // namespace preforkd
