#include "daemon/generation.h"

#include <signal.h>
#include <sys/epoll.h>

#include <algorithm>

#include "base/log.h"
#include "daemon/session.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kRepeat = 1 * kSecond;
constexpr Nanoseconds kSilence = 5 * kSecond;
constexpr Nanoseconds kUntilDead = 1 * kSecond;
constexpr Nanoseconds kOrphanLook = 100 * kMillisecond;
constexpr Nanoseconds kTermToKill = 1 * kSecond;
constexpr int kMostAtOnce = 64;  // datagrams read before others have their turn

}  // namespace

Generation::Generation(EventLoop& loop, GenerationOwner& owner, uint32_t number, uint32_t capacity,
                       std::string pool, Child child, Channel channel, UniqueFd read_only_segment,
                       Listeners sockets)
    : loop_(loop),
      owner_(&owner),
      number_(number),
      capacity_(capacity),
      pool_(std::move(pool)),
      child_(std::move(child)),
      channel_(std::move(channel)),
      segment_(std::move(read_only_segment)),
      sockets_(std::move(sockets)) {
  loop_.watch(channel_.fd(), EPOLLIN, [this](uint32_t) { read_channel(); });
}

GenerationRecord Generation::record() const {
  GenerationRecord r;
  r.number = number_;
  r.capacity = capacity_;
  r.workers = workers_;
  r.next_order = next_order_;
  r.pid = child_.pid;
  r.channel = channel_.fd();
  r.segment = segment_.get();
  r.state = static_cast<int>(state_);
  r.preloaded = preloaded_;
  r.quiet = quiet_;
  r.stopped = kill_timer_.second != 0;
  r.orphans_until = orphans_until_;
  return r;
}

Generation::Generation(EventLoop& loop, GenerationOwner& owner, std::string pool,
                       const GenerationRecord& record, Listeners sockets)
    : loop_(loop),
      owner_(&owner),
      number_(record.number),
      capacity_(record.capacity),
      pool_(std::move(pool)),
      channel_(UniqueFd(record.channel)),
      segment_(record.segment),
      sockets_(std::move(sockets)),
      state_(static_cast<State>(record.state)),
      preloaded_(record.preloaded),
      quiet_(record.quiet),
      workers_(record.workers),
      next_order_(record.next_order),
      orphans_until_(record.orphans_until) {
  child_.pid = record.pid;  // its workers are known by it when it is gone
  if (has_supervisor()) child_ = existing_child(record.pid);
  if (channel_.is_open()) {
    channel_.name_senders();
    loop_.watch(channel_.fd(), EPOLLIN, [this](uint32_t) { read_channel(); });
  }
  if (has_supervisor() && !channel_.is_open())
    kill_after(kUntilDead, "has closed its channel");
  else if (record.stopped)
    supervisor_stopped(true);  // waitpid() says it once
  if (state_ == State::kOrphaned) orphan_timer_ = loop_.after(0, [this] { wait_for_orphans(); });
}

Generation::~Generation() {
  if (channel_.is_open()) loop_.forget(channel_.fd());
  loop_.cancel(repeat_timer_);
  loop_.cancel(orphan_timer_);
  loop_.cancel(kill_timer_);
}

// --- messages ------------------------------------------------------------------------------------

void Generation::read_channel() {
  if (!channel_.is_open()) return;
  Channel::Datagram datagram;
  for (int i = 0; i < kMostAtOnce; ++i) {
    Channel::Got got = channel_.receive(datagram);
    if (got == Channel::Got::kNothing) return;
    auto report = got == Channel::Got::kMessage ? datagram.as<Report>() : std::nullopt;
    if (report && datagram.sender != child_.pid) {
      log({LogLevel::kError, pool_, datagram.sender,
           "it speaks for supervisor " + std::to_string(child_.pid) + ", which is killed",
           Event::kSupervisorSilent});
      report.reset();
    }
    if (!report) {
      // It should be dying; if not, it is of no use any more. Killed before the channel is closed: it would take that
      // for the daemon's death, and shut the listen sockets down. In preload it may yet find out, and say why.
      if (preloaded_ || got == Channel::Got::kMessage)
        child_.signal(SIGKILL);
      else if (kill_timer_.second == 0)
        kill_after(kUntilDead, "has closed its channel");
      loop_.forget(channel_.fd());
      channel_.close();
      return;
    }
    last_heard_ = monotonic_now();
    report->text[sizeof report->text - 1] = '\0';
    report->event = event_of_supervisor(report->event);
    if (report->type == ReportType::kAck) {
      workers_ = static_cast<uint32_t>(std::max(report->level, 0));
      note_ack(report->number);
      continue;
    }
    if (report->type == ReportType::kPreloaded) preloaded_ = true;
    if (report->type == ReportType::kReady && state_ == State::kStarting) state_ = State::kServing;
    if (report->type == ReportType::kQuiet || report->type == ReportType::kDrained) {
      quiet_ = true;
      workers_ = report->number;
    }
    owner_->on_report(number_, *report);
  }
}

void Generation::order(Order order, OnDone on_done) {
  if (!has_supervisor()) {
    if (on_done) on_done(false);
    return;
  }
  order.number = next_order_++;
  replace_older(order, on_done);
  if (outstanding_.empty()) last_heard_ = monotonic_now();  // silence counts from here
  outstanding_.emplace(order.number, Outstanding{order, std::move(on_done)});
  send(order);
  if (repeat_timer_.second == 0) repeat_timer_ = loop_.after(kRepeat, [this] { repeat_orders(); });
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
  channel_.send_struct(order);  // full or gone: the repetition, or the death, will tell
}

void Generation::note_ack(uint32_t number) {
  auto found = outstanding_.find(number);
  if (found == outstanding_.end()) return;  // of a repetition
  OnDone on_done = std::move(found->second.on_done);
  outstanding_.erase(found);
  if (outstanding_.empty()) loop_.cancel(repeat_timer_);
  if (on_done) on_done(true);
}

void Generation::repeat_orders() {
  repeat_timer_ = {};
  if (outstanding_.empty() || !has_supervisor()) return;
  if (preloaded_ && monotonic_now() - last_heard_ >= kSilence) {
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
  if (!serves()) return;
  state_ = State::kDraining;
  drain_again(timeout, finish);
}

void Generation::drain_again(Nanoseconds timeout, uint64_t finish) {
  // One that still preloads has served nobody, and would not read the order for long.
  if (!preloaded_) return child_.signal(SIGKILL);
  Order o;
  o.type = OrderType::kDrain;
  o.drain = timeout;
  o.finish = finish;
  order(o);
}

uint64_t Generation::bits_of(const Listeners& some) const {
  uint64_t bits = 0;
  for (size_t i = 0; i < sockets_.size() && i < 64; ++i)
    if (contains(some, sockets_[i])) bits |= uint64_t{1} << i;
  return bits;
}

void Generation::stop() {
  if (!has_supervisor()) return kill_all();
  state_ = State::kDraining;
  if (!preloaded_) return child_.signal(SIGKILL);
  Order o;
  o.type = OrderType::kStop;
  order(o);
}

void Generation::kill_all() {
  if (has_supervisor()) child_.signal(SIGKILL);
  signal_session(child_.pid, SIGKILL);
  orphans_until_ = 0;
}

// --- the end -------------------------------------------------------------------------------------

void Generation::supervisor_stopped(bool stopped) {
  if (!channel_.is_open()) return;  // it is killed anyway
  loop_.cancel(kill_timer_);
  if (!stopped) return;
  if (!told_stopped_)
    log({LogLevel::kWarning, pool_, 0,
         "supervisor " + std::to_string(child_.pid) + " was stopped by a signal",
         Event::kSupervisorSilent});
  told_stopped_ = true;
  kill_after(kSilence, "has been stopped for 5 s");
}

void Generation::kill_after(Nanoseconds delay, const std::string& why) {
  kill_timer_ = loop_.after(delay, [this, why] {
    kill_timer_ = {};
    log({LogLevel::kError, pool_, 0,
         "supervisor " + std::to_string(child_.pid) + " " + why + ": killed",
         Event::kSupervisorSilent});
    child_.signal(SIGKILL);
  });
}

void Generation::supervisor_died(int status, Nanoseconds patience) {
  for (int i = 0; i < kMostAtOnce && channel_.is_open(); ++i) read_channel();  // its last words
  if (channel_.is_open()) loop_.forget(channel_.fd());
  channel_.close();
  loop_.cancel(repeat_timer_);
  loop_.cancel(kill_timer_);
  state_ = State::kOrphaned;
  if (orphans_until_ != 0) orphans_until_ = monotonic_now() + patience;  // 0: kill_all()
  auto waiting = std::move(outstanding_);
  outstanding_.clear();
  for (auto& [number, entry] : waiting)
    if (entry.on_done) entry.on_done(false);
  owner_->on_supervisor_death(number_, status);
  wait_for_orphans();
}

// A look each 100 ms while there are any, and not at each death: thousands may be dying.
void Generation::wait_for_orphans() {
  orphan_timer_ = {};
  auto left = children_in_session(child_.pid);
  if (left) workers_ = static_cast<uint32_t>(left->size());
  if (left && left->empty()) {
    state_ = State::kOver;
    owner_->on_over(number_);  // may destroy this
    return;
  }
  const Nanoseconds now = monotonic_now();
  if (now >= orphans_until_) {
    if (!orphans_termed_)
      log({LogLevel::kWarning, pool_, 0,
           "workers of generation " + std::to_string(number_) + " are not done in time: ended",
           Event::kDrainForced});
    signal_session(child_.pid, orphans_termed_ ? SIGKILL : SIGTERM);
    orphans_termed_ = true;
    orphans_until_ = now + kTermToKill;
  }
  orphan_timer_ =
      loop_.at(std::min(now + kOrphanLook, orphans_until_), [this] { wait_for_orphans(); });
}

}  // namespace preforkd
