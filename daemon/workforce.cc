#include "daemon/workforce.h"

#include <alloca.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "daemon/quick_fork.h"
#include "shm/note.h"
#include "shm/tickets.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kTermToKill = 1 * kSecond;
constexpr Nanoseconds kStoppedTooLong = 5 * kSecond;
constexpr uint32_t kTenth = 10;
constexpr uint32_t kAtATime = 64;
constexpr uintptr_t kPage = 4096;
constexpr Nanoseconds kLongConnection = 2 * kSecond;

void warn(pid_t worker, Event event, const std::string& text) {
  log({LogLevel::kWarning, {}, worker, text, event});
}

// ±10 %, so that workers that were forked together do not leave together.
Nanoseconds jittered(Nanoseconds age, pid_t pid) {
  constexpr uint32_t kSteps = 1024;
  const uint32_t step =
      static_cast<uint32_t>(pid) * 2654435769u >> 22;  // Knuth's multiplicative hash
  return age - age / 10 + age / 5 / kSteps * step;
}

// 0 if it cannot be had: nobody is replaced for that.
uint64_t resident_mib(pid_t pid) {
  char text[128] = "";
  const int fd = open(("/proc/" + std::to_string(pid) + "/statm").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  unsigned long pages = 0;
  if (size <= 0 || std::sscanf(text, "%*u %lu", &pages) != 1) return 0;
  static const auto kPageSize = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return pages * kPageSize >> 20;
}

// "10.0.0.1:4242 (GET /x)"
std::string in_hand_text(const shm::Slot& slot) {
  const std::string note = shm::note_text(shm::load_note(slot));
  return shm::peer_text(shm::load_peer(slot)) + (note.empty() ? "" : " (" + note + ")");
}

// "killed by signal 11 (Segmentation fault) while serving 10.0.0.1:4242"
std::string death_text(int status, const shm::Scoreboard::Last& last,
                       const Workforce::Death& death) {
  const bool was_starting = last.state == WorkerState::kStarting;
  std::string text;
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    text = "killed by signal " + std::to_string(number) + " (" + strsignal(number) + ")";
  } else {
    text = "exited with status " + std::to_string(WEXITSTATUS(status));
  }
  if (last.active)
    text += " while serving " + shm::peer_text(last.peer);
  else if (was_starting)
    text += " while starting";
  const bool late = death.abnormal && death.ending == shm::Ending::kTimedOut;
  return text + (late ? ", timeouts.start being over" : "");
}

}  // namespace

Workforce::Workforce(const WorkerPlan& plan, shm::Scoreboard& board, Channel& daemon,
                     std::function<bool(pid_t)> is_other)
    : plan_(plan),
      board_(board),
      daemon_(daemon),
      is_other_(std::move(is_other)),
      records_(board.capacity(), &own_) {}

template <class Visit>
void Workforce::each(Visit visit) const {
  for (uint32_t slot = 0, seen = 0; slot < records_.size() && seen < board_.alive(); ++slot) {
    if (records_[slot].pid == 0) continue;
    ++seen;
    visit(slot);
  }
}

// --- fork ----------------------------------------------------------------------------------------

Workforce::Forked Workforce::fork(uint32_t count, Nanoseconds now) {
  count = std::min(count, board_.capacity() - board_.alive());
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
  records_[slot] = Record{};
  records_[slot].pid = pid;
  records_[slot].forked_at = now;
  if (plan_.settings.max_age) records_[slot].old_at = now + jittered(plan_.settings.max_age, pid);
  slot_of_[pid] = slot;
  ++unstarted_;
}

void Workforce::be_worker(uint32_t slot) {
  int status = static_cast<int>(ExitCode::kInternal);
  try {
    system_call(SYS_close, daemon_.fd());
    status = Worker(plan_, slot).run();
  } catch (const std::exception& e) {
    log_error(e.what());
  }
  _exit(status);
}

// --- reap ----------------------------------------------------------------------------------------

std::optional<Workforce::Death> Workforce::reap(Nanoseconds now) {
  for (;;) {
    int status = 0;
    pid_t pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) return std::nullopt;
    auto found = slot_of_.find(pid);
    if (found == slot_of_.end()) {  // or a child that a handler's preload left behind
      if (WIFEXITED(status) || WIFSIGNALED(status)) is_other_(pid);
      continue;
    }
    uint32_t slot = found->second;
    if (WIFSTOPPED(status)) {
      note_stopped(records_[slot], now);
      const bool again = std::exchange(records_[slot].told_stopped, true);
      return Death{.only_stopped = true,
                   .pid = pid,
                   .text = again ? "" : std::string("stopped by ") + strsignal(WSTOPSIG(status))};
    }
    if (WIFCONTINUED(status)) {
      note_stopped(records_[slot], 0);
      continue;
    }
    slot_of_.erase(found);
    note_stopped(records_[slot], 0);
    Death death = judge(slot, pid, status);
    Record& record = records_[slot];
    if (!record.started) {
      --unstarted_;
      auto step = static_cast<shm::StartingStep>(board_.slot(slot).starting_step.load());
      if (step == shm::StartingStep::kHasTicket)
        shm::post_tickets(board_.segment().tickets.start, 1);
      else if (step == shm::StartingStep::kWaitsForTicket)
        shm::pass_on_wake_up(board_.segment().tickets.start);
    }
    bool served = plan_.program && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    board_.fold(slot, death.ending, served, now);
    told_ -= record.told_to_leave;
    worn_ -= record.worn;
    ending_ -= record.ending != 0;
    record = Record{};
    return death;
  }
}

void Workforce::note_stopped(Record& record, Nanoseconds at) {
  stopped_ += (at != 0) - (record.stopped_at != 0);
  record.stopped_at = at;
}

// What a death was: as ordered, as usual, or abnormal.
Workforce::Death Workforce::judge(uint32_t slot, pid_t pid, int status) const {
  const Record& record = records_[slot];
  shm::Scoreboard::Last last = board_.last_words(slot);
  Death death;
  death.pid = pid;
  death.served = last.active;
  const bool signaled = WIFSIGNALED(status);
  const int code = signaled ? WTERMSIG(status) : WEXITSTATUS(status);
  // (One that could not be executed has no connection in hand any more: the worker has counted it.)
  const bool was_program = plan_.program && last.active;
  const bool may_leave = last.state != WorkerState::kStarting || record.told_to_leave ||
                         board_.segment().published.leaving.load() == shm::kDrain;
  if (record.ending && (signaled || was_program)) {
    death.ending = shm::Ending::kTimedOut;
    // A worker that does not get through `start` is as bad as one that crashes in it.
    death.abnormal = last.state == WorkerState::kStarting && record.ending != shm::kEndAny;
  } else if (was_program && (!signaled || code == SIGPIPE)) {
    death.ending = shm::Ending::kRecycled;  // whether it succeeded is the connection's matter
  } else if (!signaled && code == 0 && !last.active && may_leave &&
             !(plan_.serving && last.begun == 0 && last.state != WorkerState::kRetiring)) {
    // (exit() within start or serve is no way to leave, nor is it before the first connection.)
    // A program that accepts by itself may end when it likes; a wake-up may end with it.
    death.unannounced = plan_.serving && last.state != WorkerState::kRetiring;
    const bool recycled = last.recycle || record.worn || death.unannounced;
    death.ending = recycled ? shm::Ending::kRecycled : shm::Ending::kRetired;
  } else {
    death.ending = shm::Ending::kCrashed;
    death.abnormal = true;
  }
  // Not for each of a pool of programs, which have one a connection.
  if (death.abnormal || death.ending == shm::Ending::kTimedOut || is_logged(LogLevel::kDebug))
    death.text = death_text(status, last, death);
  return death;
}

// --- orders --------------------------------------------------------------------------------------

// A program may have children: they are ended with it. It leads its group from its first moments on.
void Workforce::send(const Record& record, int signal_number) const {
  if (plan_.leads_group() && (signal_number == SIGTERM || signal_number == SIGKILL) &&
      kill(-record.pid, signal_number) == 0)
    return;
  kill(record.pid, signal_number);
}

void Workforce::nudge_idle(uint32_t count) {
  for (uint32_t slot : board_.idle_longest(count)) send(records_[slot], plan_.nudge_signal());
}

void Workforce::nudge_all() {
  each([&](uint32_t slot) { send(records_[slot], plan_.nudge_signal()); });
}

void Workforce::take_back_tickets() {
  shm::take_back_tickets(board_.segment().tickets.retire, board_.capacity());
}

void Workforce::retire_longest_idle(uint32_t count) {
  take_back_tickets();
  shm::post_tickets(board_.segment().tickets.retire, count);
  nudge_idle(count);
}

void Workforce::tell_to_leave(uint32_t slot) {
  board_.slot(slot).leave.store(1);
  records_[slot].told_to_leave = true;
  ++told_;
  send(records_[slot], plan_.nudge_signal());
}

uint32_t Workforce::dismiss_recyclers(const uint32_t most) {
  uint32_t told = 0;
  for (bool idle : {true, false})
    each([&](uint32_t slot) {
      const bool wants = records_[slot].worn || board_.slot(slot).recycle.load();
      if (told == most || records_[slot].told_to_leave || !wants) return;
      if (board_.is_idle(slot) < idle) return;
      tell_to_leave(slot);
      ++told;
    });
  return told;
}

// --- deadlines -----------------------------------------------------------------------------------

bool Workforce::in_hand(uint32_t slot, uint64_t number) const {
  const shm::Slot& s = board_.slot(slot);
  uint64_t done = s.served.load() + s.failed.load();
  return number == shm::kEndAny || (s.begun.load() == number && done < number);
}

void Workforce::note_ending(uint32_t slot, uint64_t number, Nanoseconds now) {
  Record& record = records_[slot];
  ending_ += record.ending == 0;
  record.ending = number;
  record.kill_at = now + kTermToKill;
}

// Interleavings: worker/seat.h. False: it was done in the meantime.
bool Workforce::order_end(uint32_t slot, uint64_t number, Nanoseconds now) {
  board_.slot(slot).end.store(number);
  if (!in_hand(slot, number)) {
    board_.slot(slot).end.store(0);
    return false;
  }
  note_ending(slot, number, now);
  send(records_[slot], SIGTERM);
  return true;
}

void Workforce::end_starters(Nanoseconds now) {
  each([&](uint32_t slot) {
    const bool starting =
        static_cast<WorkerState>(board_.slot(slot).state.load()) == WorkerState::kStarting;
    if (starting && records_[slot].ending == 0) order_end(slot, shm::kEndAny, now);
  });
}

void Workforce::end_all(Nanoseconds now) {
  each([&](uint32_t slot) {
    if (records_[slot].ending != shm::kEndAny) order_end(slot, shm::kEndAny, now);
  });
}

Nanoseconds Workforce::end_overdue(Nanoseconds now) {
  Nanoseconds next = kNever;
  if (!plan_.settings.first_deadline() && unstarted_ == 0 && ending_ == 0 && stopped_ == 0 &&
      board_.counts().retiring == 0)
    return next;
  each([&](uint32_t slot) {
    Record& record = records_[slot];
    if (record.kill_at) {
      if (now < record.kill_at) {
        next = std::min(next, record.kill_at);
        return;
      }
      // Only while it is still about the same connection: a worker that finished it leaves by itself.
      const bool still = in_hand(slot, record.ending);
      if (still) send(record, SIGKILL);
      record.kill_at = still ? now + kTermToKill : 0;
      if (still) next = std::min(next, record.kill_at);
      if (still) return;
    }
    if (record.stopped_at) {
      if (now < record.stopped_at + kStoppedTooLong) {
        next = std::min(next, record.stopped_at + kStoppedTooLong);
      } else {
        warn(record.pid, Event::kWorkerStopped, "has been stopped for 5 s: killed");
        note_ending(slot, shm::kEndAny, now);
        send(record, SIGKILL);
        next = std::min(next, record.kill_at);
      }
      return;
    }
    auto state = static_cast<WorkerState>(board_.slot(slot).state.load());
    if (state == WorkerState::kStarting)
      next = std::min(next, check_start(slot, now));
    else if (state == WorkerState::kRetiring)
      next = std::min(next, check_retiring(slot, now));
    else if (state == WorkerState::kBusy && plan_.settings.first_deadline())
      next = std::min(next, check_connection(slot, now));
  });
  return next;
}

// A worker that waits for a start ticket is not late, as long as others come through.
Nanoseconds Workforce::check_start(uint32_t slot, Nanoseconds now) {
  const shm::Slot& s = board_.slot(slot);
  auto step = static_cast<shm::StartingStep>(s.starting_step.load());
  Nanoseconds timeout = plan_.settings.start_timeout;
  if (timeout == 0) return kNever;
  Nanoseconds since = records_[slot].forked_at;
  if (step == shm::StartingStep::kHasTicket) since = std::max<Nanoseconds>(since, s.since.load());
  since = std::min(since, now);  // whatever the slot says
  if (step == shm::StartingStep::kWaitsForTicket)
    since = std::max(since, start_progress_) + timeout;
  if (since > now || now - since < timeout) return since + timeout;
  warn(records_[slot].pid, Event::kStartTimedOut,
       "did not get through start in " + std::to_string(timeout / kMillisecond) + " ms: killed");
  note_ending(slot, 1, now);  // any number but kEndAny: see judge()
  send(records_[slot], SIGKILL);
  return records_[slot].kill_at;
}

// A handler's `stop` that hangs would hold the slot for ever: it has as long as a drain.
Nanoseconds Workforce::check_retiring(uint32_t slot, Nanoseconds now) {
  Nanoseconds since = std::min<Nanoseconds>(board_.slot(slot).since.load(), now);
  Nanoseconds timeout = plan_.settings.drain_timeout;
  if (now - since < timeout) return since + timeout;
  warn(records_[slot].pid, Event::kDrainForced,
       "was to leave " + std::to_string((now - since) / kMillisecond) + " ms ago: ended");
  order_end(slot, shm::kEndAny, now);
  return records_[slot].kill_at;
}

Nanoseconds Workforce::check_connection(uint32_t slot, Nanoseconds now) {
  const shm::Slot& s = board_.slot(slot);
  uint64_t number = s.begun.load();
  const Nanoseconds since = std::min<Nanoseconds>(s.since.load(), now);  // whatever the slot says
  const Nanoseconds slow = plan_.settings.slow_timeout, timeout = plan_.settings.connection_timeout;
  // Not one yet: its PROXY header is waited for. It begins anew then.
  if (!in_hand(slot, number)) return now + plan_.settings.first_deadline();
  Nanoseconds next = kNever;
  if (slow && records_[slot].slow_told != number) {
    next = since + slow;
    if (now >= next) tell_slow(slot, number, now - since), next = kNever;
  }
  if (timeout == 0) return next;
  const Nanoseconds end = std::max<Nanoseconds>(since + timeout, s.extended_until.load());
  if (now < end) return std::min(next, end);
  const std::string what = in_hand_text(s);
  if (!order_end(slot, number, now)) return std::min(next, now + timeout);
  warn(records_[slot].pid, Event::kConnectionTimedOut,
       "has served " + what + " for " + std::to_string((now - since) / kMillisecond) +
           " ms: ended (timeouts.connection)");
  return records_[slot].kill_at;
}

void Workforce::tell_slow(uint32_t slot, uint64_t number, Nanoseconds took) {
  const std::string what = in_hand_text(board_.slot(slot));
  if (!in_hand(slot, number))
    return;  // it was done in the meantime, and `what` may be the next one
  records_[slot].slow_told = number;
  warn(records_[slot].pid, Event::kConnectionSlow,
       "has served " + what + " for " + std::to_string(took / kMillisecond) +
           " ms so far (timeouts.slow)");
}

// --- starting ------------------------------------------------------------------------------------

bool Workforce::hand_out_start_tickets() {
  if (unstarted_ == 0) return false;
  uint32_t through = 0, with_ticket = 0, waiting = 0;
  each([&](uint32_t slot) {
    Record& record = records_[slot];
    if (record.started) return;
    const shm::Slot& s = board_.slot(slot);
    if (static_cast<WorkerState>(s.state.load()) != WorkerState::kStarting) {
      record.started = true;
      ++through;
      return;
    }
    auto step = static_cast<shm::StartingStep>(s.starting_step.load());
    with_ticket += step == shm::StartingStep::kHasTicket;
    waiting += step == shm::StartingStep::kWaitsForTicket;
  });
  unstarted_ -= through;
  if (through) start_progress_ = monotonic_now();
  if (!plan_.has_start()) return false;

  sem_t& tickets = board_.segment().tickets.start;
  int left = 0;
  sem_getvalue(&tickets, &left);
  if (unstarted_ == 0) {  // nobody is on the way to a ticket: set the count right
    shm::take_back_tickets(tickets, board_.capacity());
    shm::post_tickets(tickets, plan_.settings.starting);
  } else {
    shm::post_tickets(tickets, through);
    bool all_lost = through == 0 && with_ticket == 0 && left == 0 && waiting == unstarted_;
    if (all_lost) shm::post_tickets(tickets, 1);
  }
  return unstarted_ > 0;
}

void Workforce::release_all_starters() {
  shm::post_tickets(board_.segment().tickets.start, unstarted_);
}

bool Workforce::recycles() const {
  return plan_.settings.connections != 0 || someone_asked_ || worn_ > 0;
}

// It serves, or has served since it was measured last.
bool Workforce::may_have_grown(uint32_t slot) {
  const uint64_t begun = board_.slot(slot).begun.load();
  const bool same = std::exchange(records_[slot].measured_after, begun) == begun;
  return !same || !board_.is_idle(slot);
}

Nanoseconds Workforce::mark_worn(bool measured, Nanoseconds now) {
  const PoolSettings& settings = plan_.settings;
  if (!measured && settings.max_age == 0) return kNever;
  const uint32_t most = std::max(board_.alive() / kTenth, 1u);
  Nanoseconds next = kNever;
  // Who has been told and goes on serving for long does not keep the others from being replaced.
  uint32_t going = 0;
  if (worn_ > 0)
    each([&](uint32_t slot) {
      if (!records_[slot].worn || has_long_connection(slot, now)) return;
      ++going;
      if (records_[slot].told_to_leave) next = now + kLongConnection;
    });
  each([&](uint32_t slot) {
    Record& record = records_[slot];
    if (record.worn || record.told_to_leave || going >= most) return;
    const Nanoseconds grown_up = record.forked_at + settings.min_age;
    const bool old = now >= std::max(record.old_at, grown_up);
    const bool big = measured && now >= grown_up && may_have_grown(slot) &&
                     resident_mib(record.pid) >= settings.max_rss;
    if (!old && !big) {
      if (settings.max_age) next = std::min(next, std::max(record.old_at, grown_up));
      return;
    }
    record.worn = true;
    ++worn_;
    ++going;
  });
  return next;
}

bool Workforce::has_long_connection(uint32_t slot, Nanoseconds now) const {
  const shm::Slot& s = board_.slot(slot);
  return records_[slot].told_to_leave && in_hand(slot, s.begun.load()) &&
         now >= s.since.load() + kLongConnection;
}

Workforce::Headcount Workforce::headcount(Nanoseconds now) {
  Headcount h;
  h.counts = board_.counts();
  shm::Word& asked = board_.segment().shared.recycle;
  if (asked.load() != 0 && asked.exchange(0) != 0) someone_asked_ = true;
  const bool recycling = recycles();
  if (!recycling && told_ == 0 && stopped_ == 0) return h;
  someone_asked_ = false;
  h.going = h.counts.retiring;
  each([&](uint32_t slot) {
    const Record& record = records_[slot];
    const shm::Slot& s = board_.slot(slot);
    const bool wants = recycling && (record.worn || s.recycle.load() != 0);
    someone_asked_ |= wants && !record.worn;
    const bool stopped = record.stopped_at != 0;  // as good as gone, until it goes on
    if (!record.told_to_leave && !wants && !stopped) return;
    auto state = static_cast<WorkerState>(s.state.load());
    if (state == WorkerState::kRetiring) return;  // counted as that already
    h.going += record.told_to_leave && !has_long_connection(slot, now);
    uint32_t& from = board_.is_idle(slot)              ? h.counts.idle
                     : state == WorkerState::kStarting ? h.counts.starting
                                                       : h.counts.busy;
    if (from == 0) return;  // it moved meanwhile
    --from;
    ++(record.told_to_leave || stopped ? h.counts.retiring : h.recycling);
  });
  return h;
}

}  // namespace preforkd
