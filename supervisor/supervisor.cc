#include "supervisor/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/backlog.h"
#include "base/log.h"
#include "shm/doorbell.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr Backoff kForkAgain = {100 * kMillisecond, 5 * kSecond};
constexpr Nanoseconds kSayAtMaxAgain = 60 * kSecond;
constexpr Nanoseconds kMeasureEvery = kSecond;
constexpr uint32_t kFlood = 32;  // turns with nothing to do, before it rests
constexpr Nanoseconds kRest = 1 * kMillisecond;
constexpr Nanoseconds kLookForCloser = 100 * kMillisecond;  // one that is to leave

// The one global: signal handlers can reach nothing else.
struct {
  shm::Doorbell* bell = nullptr;
  shm::Word count{0};  // in private memory: no worker can put it back
  volatile sig_atomic_t term = 0;
} signalled;

void on_signal(int number) {
  if (number == SIGTERM) signalled.term = 1;
  signalled.count.fetch_add(1);
  shm::ring_from_signal(*signalled.bell);
}

}  // namespace

void install_supervisor_signals(shm::Doorbell& bell) {
  signalled.bell = &bell;
  struct sigaction action {};
  action.sa_handler = on_signal;  // without SA_RESTART: a signal ends the wait
  for (int number : {SIGCHLD, SIGIO}) sigaction(number, &action, nullptr);
  action.sa_handler = SIG_IGN;
  for (int number : {SIGHUP, SIGINT, SIGQUIT}) sigaction(number, &action, nullptr);
  install_inherited_signals(on_signal);
}

Supervisor::Supervisor(const WorkerPlan& plan, shm::Scoreboard& board, DaemonEnds& daemon,
                       const SupervisorArgs& args, ClosingPairs& pairs)
    : plan_(plan),
      board_(board),
      daemon_(daemon),
      own_sockets_(args.own_sockets),
      closer_(plan, pairs, [this] { daemon_.close(); }),
      workforce_(
          plan, board,
          {daemon.orders.fd(), daemon.reports.fd(), closer_.ends()[0], closer_.ends()[1]},
          [this](pid_t pid, int status) {
            if (!closer_.was(pid, status)) shedder_.was(pid, status);
          },
          [this](pid_t pid, bool in_question) { return closer_.program_ended(pid, in_question); }),
      shedder_(plan,
               [this] {
                 daemon_.close();
                 for (int fd : closer_.ends()) system_call(SYS_close, fd);
               }),
      limits_(plan.settings.limits),
      first_workers_(args.first_workers),
      on_trial_(args.on_trial) {
  memory_.step_began = monotonic_now();
}

int Supervisor::run() {
  say(ReportType::kPreloaded);
  // The turn before this one, with its sleep if nobody had ended it.
  Nanoseconds began = 0, ends = kNever;
  for (;;) {
    const uint32_t signals = signalled.count.load();
    const uint32_t rings = shm::rings(board_.segment().doorbell);
    const Nanoseconds now = monotonic_now();
    due_ = kNever;
    const Nanoseconds stood = workforce_.note_standstill(began, ends, now);
    const bool has_forked = std::exchange(has_forked_, false);
    began = ends = now;
    // (Forking takes its time: of that the daemon does not know, who ends a drain at the latest.)
    if (stood > 0 && !has_forked) give_time(stood);
    if (signalled.term && course_ == Course::kServing) drain(plan_.settings.drain_timeout, 0, now);
    bool did_something = obey_daemon(now);
    did_something |= reap_workers(now);
    due_ = std::min(due_, closer_.look(now));
    if (nobody_is_left(now)) break;
    did_something |= settle(now);
    did_something |= tell_progress(now);
    if (did_something) {
      fruitless_ = 0;
      continue;  // look again before sleeping: what was done changed what there is to do
    }
    arm(now);
    if (++fruitless_ > kFlood) {
      shm::rest(signalled.count, signals, now + kRest);
      const bool calm = shm::rings(board_.segment().doorbell) == rings && due_ > now + kRest;
      if (calm) fruitless_ = 0;  // it was no flood
      continue;
    }
    ends = std::max(due_, now);
    shm::sleep_until_rung(board_.segment().doorbell, rings, due_);
  }
  say(ReportType::kDrained);
  return 0;
}

// Neither who serves, or waits to be served, nor a connection that is being closed.
bool Supervisor::nobody_is_left(Nanoseconds now) {
  if (board_.alive() > 0 || course_ == Course::kServing) return false;
  const bool drains = course_ == Course::kDraining;
  if (drains && !queue_is_finished(now)) return false;
  due_ = std::min(due_, now + kLookForCloser);
  return closer_.has_left(now, drains ? drain_ends_ : now);
}

// --- the workers ---------------------------------------------------------------------------------

uint32_t Supervisor::queued(uint64_t which) const { return queued_on(plan_.listen_sockets, which); }

// Before the bits are read: see the header.
void Supervisor::publish(bool more_starters_than_tickets) {
  if (course_ != Course::kServing) return;
  shm::Published& published = board_.segment().published;
  auto set = [](shm::Word& word, uint32_t value) {
    if (word.load(std::memory_order_relaxed) != value) word.store(value);
  };
  // With min_spare = 0 the last idle worker still rings: somebody must watch the queue then.
  // (While a pause lasts they ring too: it is decided then when to look again.)
  bool room = board_.alive() < limits_.max;
  const bool last_rings = shedder_.is_configured();  // at `max`: it is to shed load then
  set(published.low_water, room ? std::max(limits_.min_spare, 1u) : last_rings);
  uint32_t ring_on = 0;
  // At `min` no step of shrinking will look in: the last start must say so, or its deadline would. Above `max`
  // one that starts is nudged only when it is idle. In a row of deaths it is the end of the row.
  if (!told_ready_ || more_starters_than_tickets || workforce_.recycles() ||
      board_.alive() <= in_force().min || board_.alive() > limits_.max || breaker_.steps > 0)
    ring_on |= shm::kRingOnStarted;
  set(published.ring_on, ring_on);
  const uint32_t leaving = on_trial_                      ? shm::kOnTrial
                           : board_.alive() > limits_.max ? shm::kAboveMax
                                                          : shm::kStay;
  if (published.leaving.load(std::memory_order_relaxed) == leaving) return;
  // Who has seen the mark waits for a nudge, whether we put it there or a hostile worker did.
  const bool was_on_trial = published.leaving.exchange(leaving) == shm::kOnTrial;
  if (was_on_trial && !on_trial_) workforce_.nudge_all();
}

// Memory grows while somebody serves: it is measured once a second then, and not at all while nobody does.
bool Supervisor::may_measure(Nanoseconds now) {
  if (plan_.settings.max_rss == 0) return false;
  const bool woken = watch_is_armed_ && board_.segment().shared.watch.load() == 0;
  if (measure_at_ == kNever && woken) measure_at_ = now + kMeasureEvery;
  if (now >= measure_at_) {
    measure_at_ = kNever;
    return true;
  }
  due_ = std::min(due_, measure_at_);
  return false;
}

// Saturated: as many workers as there may be, all of them through their start, and nobody idle.
void Supervisor::shed_load(Nanoseconds now) {
  if (!shedder_.is_configured()) return;
  const shm::Counts counts = board_.counts();
  const bool full = board_.alive() >= limits_.max && counts.starting == 0 && !on_trial_;
  shm::Word& at_max = board_.segment().published.at_max;
  if (at_max.load() != full) at_max.store(full);
  if (full && counts.idle == 0) due_ = std::min(due_, shedder_.wake(now));
}

// Decides how big the pool should be, and makes it so.
bool Supervisor::settle(Nanoseconds now) {
  due_ = std::min(due_, workforce_.end_overdue(now));
  if (course_ == Course::kDraining) {
    if (!queue_is_finished(now)) {
      if (fork_for_queue(now)) return true;
    } else if (board_.counts().starting > 0) {
      workforce_.end_starters(now);
    }
    due_ = std::min(due_, next_look(drain_ends_, now));
    if (now >= drain_ends_) {
      if (board_.alive() > 0)
        log_warning(
            "drain: " + std::to_string(board_.alive()) + " workers are not done in time: ended",
            Event::kDrainForced);
      drain_ends_ = kNever;
      course_ = Course::kEnding;
      workforce_.end_all(now);
      return true;
    }
  }
  const bool tickets_matter = workforce_.hand_out_start_tickets(now);
  if (course_ == Course::kServing) {
    const Nanoseconds next = workforce_.mark_worn(may_measure(now), now);
    due_ = std::min(due_, next);
  }
  look_for_proof(now);
  publish(tickets_matter);
  if (course_ != Course::kServing) return false;

  const Workforce::Headcount seen = workforce_.headcount(now);
  View view;
  view.starting = seen.counts.starting;
  view.idle = seen.counts.idle;
  view.busy = seen.counts.busy;
  view.retiring = seen.counts.retiring;
  view.recycling = seen.recycling;
  view.queued = queued();
  // The daemon saw a connection: where the queue's length cannot be had, it is at least this one.
  if (std::exchange(readable_, false)) view.queued = std::max(view.queued, 1u);
  view.peak_busy = std::min(board_.peak(), board_.capacity());
  board_.set_queued(view.queued);
  board_.set_at_max(board_.alive() >= limits_.max, now);
  idle_or_starting_ = view.idle + view.starting + view.recycling > 0;
  shed_load(now);

  Verdict verdict = decide(view, in_force(), now, memory_);
  memory_ = verdict.memory;
  due_ = std::min(due_, verdict.wake_at);
  if (verdict.take_peak) {
    board_.take_peak();
    workforce_.take_back_tickets();
  }
  if (on_trial_ && verdict.action == Action::kShrink) verdict.action = Action::kNone;
  if (verdict.action == Action::kGrow) restrain(verdict, now);

  // What lasts is recorded once: a hold, and waiting for busy workers to leave.
  const bool lasts = verdict.action == Action::kHold || verdict.reason == Reason::kAboveMax;
  const bool same = recorded_action_ == verdict.action && recorded_reason_ == verdict.reason;
  if (recorded_reason_ == Reason::kAboveMax && !same) workforce_.take_back_tickets();
  if (verdict.action != Action::kNone && !(lasts && same))
    board_.record(verdict.action, verdict.reason, verdict.count, seen.counts, view.queued,
                  verdict.peak, limits_, memory_.patience, now);
  recorded_action_ = verdict.action;
  recorded_reason_ = verdict.reason;
  if (verdict.action == Action::kHold && verdict.reason == Reason::kAtMax) note_at_max(view, now);

  switch (verdict.action) {
    case Action::kGrow:
      return grow(verdict, now);
    case Action::kShrink:
      // (Above max: the idle ones now, and of the busy ones whoever is done first; see publish().)
      workforce_.retire_longest_idle(verdict.count);
      return false;
    default:
      return dismiss_recyclers(seen, verdict);
  }
}

bool Supervisor::grow(const Verdict& verdict, Nanoseconds now) {
  workforce_.take_back_tickets();
  Workforce::Forked forked = workforce_.fork(verdict.count, now);
  has_forked_ = true;
  if (forked.error) {
    note_fork_failure(forked.error, now);
  } else if (fork_failures_) {
    log_notice("fork: processes are to be had again");
    fork_failures_ = 0;
  }
  return forked.count > 0;
}

// Only when somebody has to wait, and not at each of a pool's many small peaks.
void Supervisor::note_at_max(const View& view, Nanoseconds now) {
  if (on_trial_) return;  // the queue is not its own
  if (view.queued <= view.idle + view.starting || now < say_at_max_at_) return;
  log_warning("all " + std::to_string(board_.alive()) + " workers (workers.max) are in use, " +
                  std::to_string(view.queued) + " connections wait",
              Event::kAtMax);
  say_at_max_at_ = now + kSayAtMaxAgain;
}

// The pool goes on with the workers that it has, and tries again: said once, until it works.
void Supervisor::note_fork_failure(int error, Nanoseconds now) {
  if (fork_failures_ == 0)
    log_error("fork: " + std::string(std::strerror(error)) + ": going on with " +
                  std::to_string(board_.alive()) + " workers, trying again",
              Event::kForkRefused);
  fork_error_ = error;
  fork_retry_at_ = now + kForkAgain.after(++fork_failures_);
  due_ = std::min(due_, fork_retry_at_);
}

// Those who have served their connections go when the pool does without them, their replacements being
// idle by now; at `max`, where no replacement can be made before, one leaves first.
bool Supervisor::dismiss_recyclers(const Workforce::Headcount& seen, const Verdict& verdict) {
  if (seen.recycling == 0 || seen.counts.starting > 0) return false;
  const bool at_max = verdict.action == Action::kHold && verdict.reason == Reason::kAtMax;
  if (verdict.action == Action::kHold && !at_max) return false;
  if (at_max && seen.going > 0) return false;
  return workforce_.dismiss_recyclers(at_max ? 1 : seen.recycling) > 0;
}

// Last before sleeping: the bells that are set only for a sleep.
void Supervisor::arm(Nanoseconds now) {
  if (course_ != Course::kServing) return;
  // While nobody is busy no connection has a deadline: the next worker to become busy must ring, so that
  // one is set. (The others' deadlines come later than the first one's, and are looked at then.)
  shm::Word& watch = board_.segment().shared.watch;
  const Nanoseconds deadline = plan_.settings.first_deadline();
  const bool to_measure = plan_.settings.max_rss && measure_at_ == kNever;
  watch_is_armed_ = deadline || to_measure;
  if (watch_is_armed_) watch.store(1);
  if (watch_is_armed_ && board_.counts().busy > 0) {
    if (to_measure) due_ = std::min(due_, measure_at_ = now + kMeasureEvery);
    due_ = std::min(due_, workforce_.end_overdue(now));
    // Only for a timer that is early enough for whoever comes next: the one who was busy may be done.
    watch_is_armed_ = deadline && due_ > now + deadline;
    if (!watch_is_armed_) watch.store(0);
  }
  // Nobody is there to take a connection, and there is room to fork one: the daemon watches the socket.
  if (watching_ || idle_or_starting_ || board_.alive() >= limits_.max) return;
  if (now < may_fork_at()) {
    due_ = std::min(due_, may_fork_at());
    return;
  }
  watching_ = say(ReportType::kWatchListen);
  if (!watching_) due_ = std::min(due_, now + kSayAgain);
}

}  // namespace preforkd
