#include "supervisor/workforce.h"

#include <alloca.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/program_end.h"
#include "shm/tickets.h"
#include "supervisor/quick_fork.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr uint32_t kAtATime = 64;
constexpr uintptr_t kPage = 4096;

// ±10 %, so that workers that were forked together do not leave together.
Nanoseconds jittered(Nanoseconds age, pid_t pid) {
  constexpr uint32_t kSteps = 1024;
  const uint32_t step =
      static_cast<uint32_t>(pid) * 2654435769u >> 22;  // Knuth's multiplicative hash
  return age - age / 10 + age / 5 / kSteps * step;
}

Nanoseconds processor_time(const rusage& usage) {
  auto nanoseconds = [](const timeval& t) {
    return static_cast<Nanoseconds>(t.tv_sec) * kSecond +
           static_cast<Nanoseconds>(t.tv_usec) * kMicrosecond;
  };
  return nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime);
}

// "killed by signal 11 (Segmentation fault) while serving 10.0.0.1:4242"
std::string death_text(int status, const shm::Scoreboard::Last& last,
                       const Workforce::Death& death) {
  const bool was_starting = last.state == WorkerState::kStarting;
  std::string text = program_end_text(status);
  if (last.active)
    text += " while serving " + shm::peer_text(last.peer);
  else if (was_starting)
    text += " while starting";
  const bool late = death.abnormal && death.ending == shm::Ending::kTimedOut;
  return text + (late ? ", timeouts.start being over" : "");
}

}  // namespace

Workforce::Workforce(const WorkerPlan& plan, shm::Scoreboard& board,
                     const std::array<int, 4>& supervisors_own,
                     std::function<void(pid_t, int status)> note_other,
                     std::function<bool(pid_t)> is_other,
                     std::function<bool(pid_t, bool in_question)> program_ended)
    : plan_(plan),
      board_(board),
      supervisors_own_(supervisors_own),
      note_other_(std::move(note_other)),
      is_other_(std::move(is_other)),
      program_ended_(std::move(program_ended)),
      table_(board.capacity(), plan.leads_group()),
      template_(plan, board, table_.standstills, [this] { close_supervisors_own(); }) {}

// --- fork ----------------------------------------------------------------------------------------

Workforce::Forked Workforce::fork(uint32_t count, Nanoseconds now) {
  count = std::min(count, board_.capacity() - board_.alive());
  if (plan_.preloads()) return order(count, now);
  Forked result;
  const AllSignalsBlocked over_the_fork;
  // From here on the stack begins a page: parent and child then write to one, and not to two (each is copied for
  // it, at 3 us).
  const auto top = reinterpret_cast<uintptr_t>(alloca(1));
  [[maybe_unused]] void* volatile rest = alloca(top % kPage);
  while (result.count < count && result.error == 0)
    result.count += fork_some(std::min(count - result.count, kAtATime), now, result.error);
  return result;
}

// Nothing but fork in the loop: whatever is written between two forks is a page that the last child still
// shares, and is copied for it. The stack is copied anyway: so the pids are kept there.
uint32_t Workforce::fork_some(const uint32_t wanted, Nanoseconds now, int& error) {
  uint32_t slots[kAtATime], forked = 0;
  pid_t pids[kAtATime];
  for (uint32_t i = 0; i < wanted; ++i) slots[i] = board_.prepare(now);
  for (; forked < wanted; ++forked) {
    const pid_t pid = quick_fork();
    if (pid == 0) be_worker(slots[forked]);
    if (pid < 0) {
      error = errno;
      break;
    }
    pids[forked] = pid;
  }
  for (uint32_t i = 0; i < forked; ++i) note_forked(slots[i], pids[i], now);
  for (uint32_t i = wanted; i-- > forked;) board_.fork_failed(slots[i]);
  return forked;
}

void Workforce::note_forked(uint32_t slot, pid_t pid, Nanoseconds now) {
  board_.forked(slot, pid);
  const Nanoseconds max_age = plan_.settings.max_age;
  table_.add(slot, pid, now, max_age ? now + jittered(max_age, pid) : kNever);
}

// Each counts as a worker that starts, until the order is over and it is not there.
Workforce::Forked Workforce::order(uint32_t count, Nanoseconds now) {
  Forked result;
  if (!template_.is_free()) return result;
  std::vector<uint32_t> slots(std::min(count, TemplateOrder::kMostSlots));
  for (uint32_t& slot : slots) slot = board_.prepare(now);
  if (template_.order(slots, now))
    result.count = static_cast<uint32_t>(slots.size());
  else
    for (size_t i = slots.size(); i-- > 0;) board_.fork_failed(slots[i]);
  return result;
}

std::optional<Workforce::Forked> Workforce::take_over_newborns(Nanoseconds now) {
  if (!template_.is_at_work()) return std::nullopt;
  Forked result;
  result.count = take_over(0, now);
  if (!template_.is_order_over()) return std::nullopt;
  for (uint32_t slot : template_.awaited()) board_.fork_failed(slot);
  result.error = template_.close_order(now);
  return result;
}

// `reaped`: a child of ours just now; 0: none.
uint32_t Workforce::take_over(pid_t reaped, Nanoseconds now) {
  uint32_t count = 0;
  for (uint32_t slot : std::vector(template_.awaited())) {
    const auto pid = static_cast<pid_t>(board_.slot(slot).pid.load());
    if (!is_newborn(pid, reaped)) continue;
    note_forked(slot, pid, now);
    template_.note_found(slot, now);
    ++count;
    setpgid(pid, pid);  // whoever of the two comes first: the template's is ended with it
    // It may have gone to sleep before it could be told that it is to leave, or may accept.
    table_.signal(slot, plan_.nudge_signal());
  }
  return count;
}

// What a slot says anybody may have written: it is a child of this process, and nothing else to it.
bool Workforce::is_newborn(pid_t pid, pid_t reaped) const {
  if (pid <= 0 || pid == template_.pid() || table_.slot_of(pid) || is_other_(pid)) return false;
  if (pid == reaped) return true;
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

// Closed, and not forgotten: the objects' pages would be copied. Only the supervisor speaks with the daemon.
void Workforce::close_supervisors_own() const {
  for (int fd : supervisors_own_) system_call(SYS_close, fd);
}

void Workforce::be_worker(uint32_t slot) {
  int status = static_cast<int>(ExitCode::kInternal);
  try {
    close_supervisors_own();
    status = Worker(plan_, slot).run();
  } catch (const std::exception& e) {
    log_error(e.what());
  }
  _exit(status);
}

// --- reap ----------------------------------------------------------------------------------------

std::optional<Workforce::Death> Workforce::reap(Nanoseconds now, int& others) {
  while (others > 0) {
    int status = 0;
    rusage usage{};
    if (plan_.preloads()) look_who_is_next(now);
    const pid_t pid = wait4(-1, &status, WNOHANG | WUNTRACED | WCONTINUED, &usage);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) return std::nullopt;
    auto slot = table_.slot_of(pid);
    if (!slot && plan_.preloads() && take_over(pid, now) > 0) slot = table_.slot_of(pid);
    if (!slot) {  // or a child that a handler's preload left behind
      if (!template_.was(pid, status, now)) note_other_(pid, status);
      --others;
    } else if (WIFSTOPPED(status)) {
      table_.note_stopped(*slot, now);
      const bool again = std::exchange(table_.at(*slot).told_stopped, true);
      return Death{.only_stopped = true,
                   .pid = pid,
                   .text = again ? "" : std::string("stopped by ") + strsignal(WSTOPSIG(status))};
    } else if (WIFCONTINUED(status)) {
      note_continued(*slot, now);
    } else {
      return bury(*slot, status, usage, now);
    }
  }
  return std::nullopt;
}

// A template that has ended is not reaped before its group is ended, and its workers are not in that any more. (Should it
// end between this and the reaping, the group outlives it until the pool's end.)
void Workforce::look_who_is_next(Nanoseconds now) {
  siginfo_t info{};
  if (template_.pid() == 0 ||
      waitid(P_PID, static_cast<id_t>(template_.pid()), &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
      info.si_pid == 0)
    return;
  take_over(0, now);
  template_.end_group();
}

Workforce::Death Workforce::bury(uint32_t slot, int status, const rusage& usage, Nanoseconds now) {
  table_.note_stopped(slot, 0);
  const WorkerRecord& record = table_[slot];
  const Death death = judge(slot, record.pid, status, usage);
  if (record.seen_at == 0) pass_on_start_ticket(slot);
  if (plan_.program()) look_at_client(slot, record.pid, status);
  board_.fold(slot, death.ending, outcome_of(slot, status), now);
  table_.remove(slot);
  return death;
}

// It died with one in hand, or with a wake-up that was meant for one.
void Workforce::pass_on_start_ticket(uint32_t slot) const {
  sem_t& tickets = board_.segment().tickets.start;
  const auto step = static_cast<shm::StartingStep>(board_.slot(slot).starting_step.load());
  if (step == shm::StartingStep::kHasTicket)
    shm::post_tickets(tickets, 1);
  else if (step == shm::StartingStep::kWaitsForTicket)
    shm::pass_on_wake_up(tickets);
}

// The closer closes it, whatever the slot says of a connection: one that could not be executed has none in hand any more.
void Workforce::look_at_client(uint32_t slot, pid_t pid, int status) const {
  const shm::Scoreboard::Last last = board_.last_words(slot);
  const bool in_question = last.active && !is_success(status, plan_.settings.success) &&
                           ended_by_itself(status) && table_[slot].ending == 0;
  if (program_ended_(pid, in_question)) board_.note_client_ended(slot, pid, last.begun);
}

// What the connection that it had in hand counts as. Of a client that has ended it, a program learns by an error, or by
// SIGPIPE; what ends by another signal, or because it was ordered to, has not ended of that.
Outcome Workforce::outcome_of(uint32_t slot, int status) const {
  if (!plan_.program()) return Outcome::kFailed;
  if (is_success(status, plan_.settings.success)) return Outcome::kServed;
  const bool aborted =
      ended_by_itself(status) && table_[slot].ending == 0 && board_.last_words(slot).client_ended;
  return aborted ? Outcome::kAborted : Outcome::kFailed;
}

// Its connection is given the time.
void Workforce::note_continued(uint32_t slot, Nanoseconds now) {
  WorkerRecord& record = table_.at(slot);
  const uint64_t number = board_.slot(slot).begun.load();
  if (record.stood_with != number) record.stood = 0;
  record.stood_with = number;
  if (record.stopped_at) record.stood += now - record.stopped_at;
  table_.note_stopped(slot, 0);
}

// What a death was: as ordered, as usual, or abnormal.
Workforce::Death Workforce::judge(uint32_t slot, pid_t pid, int status, const rusage& usage) {
  const WorkerRecord& record = table_[slot];
  shm::Scoreboard::Last last = board_.last_words(slot);
  Death death;
  death.pid = pid;
  death.served = last.active;
  const bool signaled = WIFSIGNALED(status);
  const int code = signaled ? WTERMSIG(status) : WEXITSTATUS(status);
  // (One that could not be executed has no connection in hand any more: the worker has counted it.)
  const bool was_program = plan_.program() && last.active;
  const bool may_leave = last.state != WorkerState::kStarting || record.told_to_leave ||
                         board_.segment().published.leaving.load() == shm::kDrain;
  if (record.ending && (signaled || was_program)) {
    death.ending = shm::Ending::kTimedOut;
    // A worker that does not get through `start` is as bad as one that crashes in it.
    death.abnormal = last.state == WorkerState::kStarting && record.ending != shm::kEndAny;
  } else if (was_program && ended_by_itself(status)) {
    death.ending = shm::Ending::kRecycled;  // whether it succeeded is the connection's matter
  } else if (!signaled && code == 0 && !last.active && may_leave &&
             !(plan_.serving() && last.begun == 0 && last.state != WorkerState::kRetiring)) {
    // (exit() within start or serve is no way to leave, nor is it before the first connection.)
    // A program that accepts by itself may end when it likes; a wake-up may end with it.
    death.unannounced = plan_.serving() && last.state != WorkerState::kRetiring;
    const bool recycled = last.recycle || record.worn || death.unannounced;
    death.ending = recycled ? shm::Ending::kRecycled : shm::Ending::kRetired;
  } else {
    death.ending = shm::Ending::kCrashed;
    death.abnormal = true;
  }
  death.loss = loss_of(slot, last, death, was_program);
  death.loss.processor_time = processor_time(usage);
  const bool has_served = last.begun > (last.active ? 1u : 0u);
  death.proves = was_program || (has_served && death.loss.kind != Loss::Kind::kUnable);
  // Not for each of a pool of programs, which have one a connection.
  if (death.abnormal || death.ending == shm::Ending::kTimedOut || is_logged(LogLevel::kDebug))
    death.text = death_text(status, last, death);
  return death;
}

// Of the dead one's own words only the kind of its loss is made, and when it began: see breaker.h.
Loss Workforce::loss_of(uint32_t slot, const shm::Scoreboard::Last& last, const Death& death,
                        bool was_program) {
  using Kind = Loss::Kind;
  const WorkerRecord& record = table_[slot];
  Loss loss{Kind::kUnused, record.forked_at, record.forked_at, 0};
  const bool had_ticket = static_cast<shm::StartingStep>(board_.slot(slot).starting_step.load()) ==
                          shm::StartingStep::kHasTicket;
  const bool in_start = last.state == WorkerState::kStarting;
  if (in_start ? had_ticket : plan_.program() != nullptr)
    loss.began_at = std::max(loss.began_at, last.since);
  const bool not_executed = plan_.program() && !last.active && last.begun > 0;
  const bool left = !death.abnormal && death.ending != shm::Ending::kTimedOut;
  // Who took one is not known: as many are believed as were posted. (Told to leave is who asked for it.)
  const bool took_ticket = left && !was_program && !record.told_to_leave && asked_ > 0;
  if (took_ticket) --asked_;
  if (death.abnormal && (in_start || not_executed))
    loss.kind = Kind::kUnable;
  else if (was_program || (left && (record.worn || took_ticket)))
    loss.kind = Kind::kOrdered;
  else if (last.begun > 0)
    loss.kind = left ? Kind::kLeft : Kind::kUsed;
  return loss;
}

// --- orders --------------------------------------------------------------------------------------

// Nobody is told to leave by it: a ticket may be out that a dead one was to take.
void Workforce::nudge_idle(uint32_t count) {
  take_back_tickets();
  nudge_longest_idle(count);
}

// (One that is stopped is idle by its bit, and would sleep over it.)
void Workforce::nudge_longest_idle(uint32_t count) {
  for (uint32_t slot : board_.idle_longest(count + table_.stopped())) {
    if (count == 0) break;
    if (table_[slot].stopped_at) continue;
    table_.signal(slot, plan_.nudge_signal());
    --count;
  }
}

uint32_t Workforce::stopped_idle() const {
  uint32_t count = 0;
  if (table_.stopped() > 0)
    table_.each(
        [&](uint32_t slot) { count += table_[slot].stopped_at != 0 && board_.is_idle(slot); });
  return count;
}

void Workforce::nudge_all() {
  table_.each([&](uint32_t slot) { table_.signal(slot, plan_.nudge_signal()); });
}

void Workforce::take_back_tickets() {
  asked_ -=
      std::min(asked_, shm::take_back_tickets(board_.segment().tickets.retire, board_.capacity()));
}

void Workforce::retire_longest_idle(uint32_t count) {
  take_back_tickets();
  shm::post_tickets(board_.segment().tickets.retire, count);
  asked_ = std::min(asked_ + count, board_.capacity());
  nudge_longest_idle(count);
}

// --- starting ------------------------------------------------------------------------------------

bool Workforce::hand_out_start_tickets(Nanoseconds now) {
  if (table_.unstarted() == 0) return template_.is_at_work();
  uint32_t through = 0, with_ticket = 0, waiting = 0;
  table_.each([&](uint32_t slot) {
    if (table_[slot].seen_at) return;
    const shm::Slot& s = board_.slot(slot);
    if (static_cast<WorkerState>(s.state.load()) != WorkerState::kStarting) {
      table_.note_through_start(slot, now);
      ++through;
      return;
    }
    auto step = static_cast<shm::StartingStep>(s.starting_step.load());
    with_ticket += step == shm::StartingStep::kHasTicket;
    waiting += step == shm::StartingStep::kWaitsForTicket;
  });
  if (!plan_.has_start()) return false;

  sem_t& tickets = board_.segment().tickets.start;
  int left = 0;
  sem_getvalue(&tickets, &left);
  // Nobody is on the way to a ticket: set the count right.
  if (table_.unstarted() == 0 && !template_.is_at_work()) {
    shm::take_back_tickets(tickets, board_.capacity());
    shm::post_tickets(tickets, plan_.settings.starting);
  } else {
    shm::post_tickets(tickets, through);
    bool all_lost = through == 0 && with_ticket == 0 && left == 0 && waiting == table_.unstarted();
    if (all_lost) shm::post_tickets(tickets, 1);
  }
  return table_.unstarted() > 0 || template_.is_at_work();
}

Nanoseconds Workforce::able_since(Nanoseconds from) const {
  Nanoseconds since = kNever;
  table_.each([&](uint32_t slot) {
    const WorkerRecord& record = table_[slot];
    Nanoseconds at = record.seen_at;
    if (plan_.program()) {  // (in hand it is from the accept on, which is before the exec)
      const shm::Scoreboard::Last last = board_.last_words(slot);
      at = last.active ? std::max(record.forked_at, last.since) : 0;
    }
    if (at >= from && at != 0) since = std::min(since, at);
  });
  return since;
}

void Workforce::release_all_starters() {
  shm::post_tickets(board_.segment().tickets.start, table_.unstarted());
}

}  // namespace preforkd
