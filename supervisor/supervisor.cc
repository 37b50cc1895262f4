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

constexpr uint32_t kFlood = 32;  // turns with nothing to do, before it rests
constexpr Nanoseconds kRest = 1 * kMillisecond;
constexpr Nanoseconds kLookAgain = 100 * kMillisecond;
constexpr int kOthersAtOnce = 1000;                         // children that are no workers
constexpr Nanoseconds kLookForCloser = 100 * kMillisecond;  // one that is to leave

uint32_t jitter() { return static_cast<uint32_t>(monotonic_now() >> 7); }

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
      reporter_(daemon, plan.supervisor),
      closer_(plan, pairs, [&daemon] { daemon.close(); }),
      workforce_(
          plan, board,
          {daemon.orders.fd(), daemon.reports.fd(), closer_.ends()[0], closer_.ends()[1]},
          [this](pid_t pid, int status) {
            if (!closer_.was(pid, status)) shedder_.was(pid, status);
          },
          [this](pid_t pid) { return closer_.is(pid) || shedder_.is(pid); },
          [this](pid_t pid, bool in_question) { return closer_.program_ended(pid, in_question); }),
      shedder_(plan,
               [this, &daemon] {
                 daemon.close();
                 for (int fd : closer_.ends()) system_call(SYS_close, fd);
               }),
      drain_(plan, board, args.own_sockets),
      busy_watch_(plan, board, workforce_.deadlines()),
      decisions_(board),
      limits_{plan.settings.limits, args.first_workers},
      on_trial_(args.on_trial) {
  scaler_.step_began = monotonic_now();
}

int Supervisor::run() {
  reporter_.say(ReportType::kPreloaded);
  shm::Doorbell& bell = board_.segment().doorbell;
  // The turn before this one, with its sleep if nobody had ended it.
  Nanoseconds began = 0, ends = kNever;
  for (;;) {
    const uint32_t signals = signalled.count.load();
    const uint32_t rings = shm::rings(bell);
    const Nanoseconds now = monotonic_now();
    const Nanoseconds stood = workforce_.table().standstills.note(began, ends, now);
    const bool has_forked = std::exchange(turns_.has_forked, false);
    began = ends = now;
    // (Forking takes its time: of that the daemon does not know, who ends a drain at the latest.)
    if (stood > 0 && !has_forked) drain_.give_time(stood);
    WakeTime wake;
    const Next next = turn(now, wake);
    if (next == Next::kExit) break;
    if (next == Next::kAgain) {
      turns_.fruitless = 0;
      continue;  // look again before sleeping: what was done changed what there is to do
    }
    if (++turns_.fruitless > kFlood) {
      shm::rest(signalled.count, signals, now + kRest);
      const bool is_calm = shm::rings(bell) == rings && wake.at() > now + kRest;
      if (is_calm) turns_.fruitless = 0;  // it was no flood
      continue;
    }
    ends = std::max(wake.at(), now);
    shm::sleep_until_rung(bell, rings, wake.at());
  }
  reporter_.say(ReportType::kDrained);
  return 0;
}

Supervisor::Next Supervisor::turn(Nanoseconds now, WakeTime& wake) {
  if (signalled.term && drain_.is_serving()) begin_drain(plan_.settings.drain_timeout, 0, now);
  bool did_something = obey_daemon(now);
  did_something |= reap_workers(now, wake);
  did_something |= look_at_template(now, wake);
  wake.by(closer_.look(now));
  if (nobody_is_left(now, wake)) return Next::kExit;
  wake.by(workforce_.deadlines().end_overdue(now));
  did_something |= drain_.is_serving() ? resize(now, wake) : go_on_draining(now, wake);
  did_something |= tell_progress(now, wake);
  if (did_something) return Next::kAgain;
  if (!drain_.is_serving()) return Next::kSleep;
  busy_watch_.arm(now, wake);
  watch_queue(now, wake);
  return Next::kSleep;
}

// --- deaths --------------------------------------------------------------------------------------

bool Supervisor::reap_workers(Nanoseconds now, WakeTime& wake) {
  bool any = false, may_have_been_woken = false, failed = false;
  std::string how;
  int others = kOthersAtOnce;
  Breaker& breaker = restraint_.breaker;
  while (auto death = workforce_.reap(now, others)) {
    any = true;
    deaths_.tell(*death, now);
    if (!death->only_stopped) breaker = breaker.after_loss(death->loss, now, jitter());
    if (death->proves && death->loss.began_at >= breaker.stepped_at)
      breaker = breaker.after_proof();
    // (One that was only stopped may sit on a wake-up, too.)
    const bool ended =
        death->only_stopped || death->abnormal || death->ending == shm::Ending::kTimedOut;
    may_have_been_woken |= ended || death->unannounced;
    // While others wait on the same sockets they look again; one that serves nobody yet is on trial.
    if (drain_.is_serving() ? !death->abnormal || death->served : !ended) continue;
    failed = true;
    how = death->text;
  }
  if (others == 0) wake.by(now);
  if (failed) reporter_.say(ReportType::kWorkerFailed, 0, how);
  deaths_.tell_of_the_others(now, wake);
  nudge_for_queue(may_have_been_woken, now, wake);
  return any;
}

// A dead one may have taken an exclusive wake-up with it: let others look at what is waiting. Not once: who
// is nudged may have taken a connection just now, and who is about to go idle is not nudged.
void Supervisor::nudge_for_queue(bool at_once, Nanoseconds now, WakeTime& wake) {
  if (at_once || now >= queue_.look_again_at) {
    const uint32_t waiting = queued();
    if (waiting) workforce_.nudge_idle(waiting);
    queue_.look_again_at = waiting ? now + kLookAgain : kNever;
  }
  wake.by(queue_.look_again_at);
}

// Below the trip it is enough that one came through its start, or there would be a row of rounds in which some did.
// (Of one that was seen only now, and tripped, nobody knows whether that was before.)
void Supervisor::look_for_proof(Nanoseconds now, WakeTime& wake) {
  Breaker& breaker = restraint_.breaker;
  if (breaker.steps == 0) return;
  const bool for_a_while = breaker.tripped() || plan_.program();
  const Nanoseconds since = workforce_.able_since(breaker.stepped_at + (breaker.tripped() ? 1 : 0));
  if (since == kNever) return;
  const Nanoseconds proven_at = since + (for_a_while ? Breaker::kProof : 0);
  if (now >= proven_at)
    breaker = breaker.after_proof();
  else
    wake.by(proven_at);
}

// --- the template --------------------------------------------------------------------------------

// True: an order is over.
bool Supervisor::look_at_template(Nanoseconds now, WakeTime& wake) {
  const bool is_at_work = workforce_.the_template().is_at_work();
  wake.by(workforce_.the_template().look(now));
  const auto made = workforce_.take_over_newborns(now);
  if (made) note_forked(made->error, now, wake);
  // Who was not there yet when the others were told.
  if (is_at_work && drain_.is_draining() && drain_.finish() == 0) workforce_.release_all_starters();
  if (is_at_work && !drain_.is_serving() && !drain_.is_draining())
    workforce_.deadlines().end_all(now);
  return made.has_value();
}

Restrained::Source Supervisor::source() {
  const Template& the_template = workforce_.the_template();
  if (!the_template.is_configured() || the_template.is_free()) return Restrained::Source::kFree;
  return the_template.is_standing() ? Restrained::Source::kAtWork : Restrained::Source::kNone;
}

// --- the end -------------------------------------------------------------------------------------

void Supervisor::begin_drain(Nanoseconds timeout, uint64_t finish, Nanoseconds now) {
  drain_.begin(timeout, finish, now);
  shedder_.stop();
  if (!finish) {
    workforce_.the_template().stop();
    workforce_.release_all_starters();
  }
  workforce_.nudge_all();
}

// Neither who serves, or waits to be served, nor a connection that is being closed.
bool Supervisor::nobody_is_left(Nanoseconds now, WakeTime& wake) {
  if (board_.alive() > 0 || drain_.is_serving()) return false;
  if (drain_.is_draining() && !queue_is_finished(now, wake)) return false;
  workforce_.the_template().stop();
  wake.by(now + kLookForCloser);
  if (!workforce_.the_template().has_left(now)) return false;
  return closer_.has_left(now, drain_.is_draining() ? drain_.until() : now);
}

// Who waits to start leaves, once it is.
bool Supervisor::queue_is_finished(Nanoseconds now, WakeTime& wake) {
  const bool was_finished = drain_.finish() == 0;
  const bool is_finished = drain_.queue_is_finished(now, wake);
  if (is_finished && !was_finished) {
    workforce_.the_template().stop();
    workforce_.release_all_starters();
  }
  return is_finished;
}

bool Supervisor::go_on_draining(Nanoseconds now, WakeTime& wake) {
  if (drain_.is_draining()) {
    if (!queue_is_finished(now, wake)) {
      if (fork_for_queue(now, wake)) return true;
    } else if (board_.counts().starting > 0) {
      workforce_.deadlines().end_starters(now);
    }
    if (drain_.time_is_over(now, wake)) {
      if (board_.alive() > 0)
        log_warning(
            "drain: " + std::to_string(board_.alive()) + " workers are not done in time: ended",
            Event::kDrainForced);
      drain_.end();
      workforce_.deadlines().end_all(now);
      return true;
    }
  }
  workforce_.hand_out_start_tickets(now);
  look_for_proof(now, wake);
  return false;
}

// Of programs each serves one connection, and workers die: who waits gets one, as before the drain.
bool Supervisor::fork_for_queue(Nanoseconds now, WakeTime& wake) {
  const shm::Counts counts = board_.counts();
  View view;
  view.queued = queued(drain_.finish());
  const uint32_t stopped = std::min(counts.idle, workforce_.stopped_idle());
  const uint32_t takers = counts.idle - stopped + counts.starting;
  if (view.queued <= takers || is_full()) return false;
  Verdict wanted;
  wanted.action = Action::kGrow;
  wanted.reason = Reason::kDemand;
  wanted.count = std::min(view.queued - takers, limits_.now.max - board_.alive());
  wanted.peak = board_.peak();
  wanted.memory = scaler_;
  const Verdict verdict =
      restrain(wanted, restraint_, {limits_.now.max, false, source()}, now, jitter());
  wake.by(verdict.wake_at);
  if (verdict.action != Action::kGrow) return false;
  decisions_.record(verdict, view, counts, limits_.now, now);
  return grow(verdict, now, wake);
}

// --- the pool's size -----------------------------------------------------------------------------

uint32_t Supervisor::queued(uint64_t which) const { return queued_on(plan_.listen_sockets, which); }

bool Supervisor::resize(Nanoseconds now, WakeTime& wake) {
  const bool tickets_matter = workforce_.hand_out_start_tickets(now);
  wake.by(workforce_.recycling().mark_worn(busy_watch_.is_to_measure(now, wake), now));
  look_for_proof(now, wake);
  publish(tickets_matter);
  const Observed seen = observe(now);
  shed_load(now, wake);
  Verdict verdict = decide(seen.view, in_force(), now, scaler_);
  scaler_ = verdict.memory;
  if (verdict.take_peak) {
    board_.take_peak();
    workforce_.take_back_tickets();
  }
  verdict = restrain(verdict, restraint_, {limits_.now.max, on_trial_, source()}, now, jitter());
  wake.by(verdict.wake_at);
  const bool was_above_max = decisions_.last_reason() == Reason::kAboveMax;
  if (was_above_max && verdict.reason != Reason::kAboveMax) workforce_.take_back_tickets();
  decisions_.record(verdict, seen.view, seen.headcount.counts, limits_.now, now);
  return act(verdict, seen, now, wake);
}

Supervisor::Observed Supervisor::observe(Nanoseconds now) {
  Observed seen;
  seen.headcount = workforce_.recycling().headcount(now);
  const shm::Counts& counts = seen.headcount.counts;
  View& view = seen.view;
  view.starting = counts.starting;
  view.idle = counts.idle;
  view.busy = counts.busy;
  view.retiring = counts.retiring;
  view.recycling = seen.headcount.recycling;
  view.queued = queued();
  // The daemon saw a connection: where the queue's length cannot be had, it is at least this one.
  if (std::exchange(queue_.readable, false)) view.queued = std::max(view.queued, 1u);
  view.peak_busy = std::min(board_.peak(), board_.capacity());
  board_.set_queued(view.queued);
  board_.set_at_max(is_full(), now);
  queue_.has_takers = view.idle + view.starting + view.recycling > 0;
  return seen;
}

bool Supervisor::act(const Verdict& verdict, const Observed& seen, Nanoseconds now,
                     WakeTime& wake) {
  const bool is_at_max = verdict.action == Action::kHold && verdict.reason == Reason::kAtMax;
  if (is_at_max && !on_trial_)
    decisions_.note_at_max(seen.view, now);  // (else it is not its queue)
  switch (verdict.action) {
    case Action::kGrow:
      return grow(verdict, now, wake);
    case Action::kShrink:
      // (Above max: the idle ones now, and of the busy ones whoever is done first; see publish().)
      workforce_.retire_longest_idle(verdict.count);
      return false;
    default:
      return dismiss_recyclers(seen.headcount, verdict);
  }
}

bool Supervisor::grow(const Verdict& verdict, Nanoseconds now, WakeTime& wake) {
  workforce_.take_back_tickets();
  const Workforce::Forked forked = workforce_.fork(verdict.count, now);
  turns_.has_forked = true;
  if (!plan_.preloads()) note_forked(forked.error, now, wake);  // of an order it is known later
  return forked.count > 0;
}

// If a process cannot be had the pool goes on with the workers that it has, and tries again: said once, until it works.
void Supervisor::note_forked(int error, Nanoseconds now, WakeTime& wake) {
  if (error && restraint_.fork_failures == 0)
    log_error("fork: " + std::string(std::strerror(error)) + ": going on with " +
                  std::to_string(board_.alive()) + " workers, trying again",
              Event::kForkRefused);
  if (!error && restraint_.fork_failures > 0) log_notice("fork: processes are to be had again");
  restraint_ = restraint_.after_fork(error, now);
  if (error) wake.by(restraint_.fork_retry_at);
}

// Those who have served their connections go when the pool does without them, their replacements being
// idle by now; at `max`, where no replacement can be made before, one leaves first.
bool Supervisor::dismiss_recyclers(const Headcount& seen, const Verdict& verdict) {
  if (seen.recycling == 0 || seen.counts.starting > 0) return false;
  if (source() == Restrained::Source::kAtWork) return false;  // it may be asked for more
  const bool at_max = verdict.action == Action::kHold && verdict.reason == Reason::kAtMax;
  if (verdict.action == Action::kHold && !at_max) return false;
  if (at_max && seen.going > 0) return false;
  return workforce_.recycling().dismiss(at_max ? 1 : seen.recycling) > 0;
}

// Before the bits are read: see the header.
void Supervisor::publish(bool more_starters_than_tickets) {
  shm::Published& published = board_.segment().published;
  auto set = [](shm::Word& word, uint32_t value) {
    if (word.load(std::memory_order_relaxed) != value) word.store(value);
  };
  // With min_spare = 0 the last idle worker still rings: somebody must watch the queue then.
  // (While a pause lasts they ring too: it is decided then when to look again.)
  const bool room = !is_full();
  const bool last_rings = shedder_.is_configured();  // at `max`: it is to shed load then
  const uint32_t low = room ? std::max(limits_.now.min_spare, 1u) : last_rings;
  // (Who is stopped and idle is idle by its bit, and takes nobody.)
  set(published.low_water, low ? low + workforce_.table().stopped() : 0);
  uint32_t ring_on = 0;
  // At `min` no step of shrinking will look in: the last start must say so, or its deadline would. Above `max`
  // one that starts is nudged only when it is idle. In a row of deaths it is the end of the row.
  if (!reporter_.has_told_ready() || more_starters_than_tickets ||
      workforce_.recycling().is_under_way() || board_.alive() <= in_force().min ||
      board_.alive() > limits_.now.max || restraint_.breaker.steps > 0)
    ring_on |= shm::kRingOnStarted;
  set(published.ring_on, ring_on);
  const uint32_t leaving = on_trial_                          ? shm::kOnTrial
                           : board_.alive() > limits_.now.max ? shm::kAboveMax
                                                              : shm::kStay;
  if (published.leaving.load(std::memory_order_relaxed) == leaving) return;
  // Who has seen the mark waits for a nudge, whether we put it there or a hostile worker did.
  const bool was_on_trial = published.leaving.exchange(leaving) == shm::kOnTrial;
  if (was_on_trial && !on_trial_) workforce_.nudge_all();
}

// Saturated: as many workers as there may be, all of them through their start, and nobody idle.
void Supervisor::shed_load(Nanoseconds now, WakeTime& wake) {
  if (!shedder_.is_configured()) return;
  const shm::Counts counts = board_.counts();
  const bool full = is_full() && counts.starting == 0 && !on_trial_;
  const uint32_t word = full ? 1 + workforce_.stopped_idle() : 0;
  shm::Word& at_max = board_.segment().published.at_max;
  if (at_max.load() != word) at_max.store(word);
  if (counts.idle < word) wake.by(shedder_.wake(now));
}

// Nobody is there to take a connection, and there is room to fork one: the daemon watches the socket.
void Supervisor::watch_queue(Nanoseconds now, WakeTime& wake) {
  if (queue_.asked_daemon || queue_.has_takers || is_full()) return;
  if (source() != Restrained::Source::kFree) return;  // that it is tells us
  if (now < restraint_.may_fork_at()) return wake.by(restraint_.may_fork_at());
  queue_.asked_daemon = reporter_.say(ReportType::kWatchListen);
  if (!queue_.asked_daemon) wake.by(now + DaemonReporter::kSayAgain);
}

}  // namespace preforkd
