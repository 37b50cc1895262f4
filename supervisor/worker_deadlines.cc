#include "supervisor/worker_deadlines.h"

#include <signal.h>

#include <algorithm>
#include <string>

#include "base/log.h"
#include "shm/note.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kTermToKill = 1 * kSecond;
constexpr Nanoseconds kStoppedTooLong = 5 * kSecond;

void warn(pid_t worker, Event event, const std::string& text) {
  log({LogLevel::kWarning, {}, worker, text, event});
}

// "10.0.0.1:4242 (GET /x)"
std::string in_hand_text(const shm::Slot& slot) {
  const std::string note = shm::note_text(shm::load_note(slot));
  return shm::peer_text(shm::load_peer(slot)) + (note.empty() ? "" : " (" + note + ")");
}

}  // namespace

// Interleavings: worker/seat.h. False: it was done in the meantime.
bool WorkerDeadlines::order_end(uint32_t slot, uint64_t number, Nanoseconds now) {
  board_.slot(slot).end.store(number);
  if (!board_.is_in_hand(slot, number)) {
    board_.slot(slot).end.store(0);
    return false;
  }
  table_.note_ending(slot, number, now + kTermToKill);
  table_.signal(slot, SIGTERM);
  return true;
}

void WorkerDeadlines::end_starters(Nanoseconds now) {
  table_.each([&](uint32_t slot) {
    const bool starting =
        static_cast<WorkerState>(board_.slot(slot).state.load()) == WorkerState::kStarting;
    if (starting && table_[slot].ending == 0) order_end(slot, shm::kEndAny, now);
  });
}

void WorkerDeadlines::end_all(Nanoseconds now) {
  table_.each([&](uint32_t slot) {
    if (table_[slot].ending != shm::kEndAny) order_end(slot, shm::kEndAny, now);
  });
}

Nanoseconds WorkerDeadlines::end_overdue(Nanoseconds now) {
  Nanoseconds next = kNever;
  if (!plan_.settings.first_deadline() && table_.unstarted() == 0 && table_.ending() == 0 &&
      table_.stopped() == 0 && board_.counts().retiring == 0)
    return next;
  table_.each([&](uint32_t slot) { next = std::min(next, check(slot, now)); });
  return next;
}

Nanoseconds WorkerDeadlines::check(uint32_t slot, Nanoseconds now) {
  if (table_[slot].kill_at)
    if (const Nanoseconds next = check_kill(slot, now); next != kNever) return next;
  if (table_[slot].stopped_at) return check_stopped(slot, now);
  switch (static_cast<WorkerState>(board_.slot(slot).state.load())) {
    case WorkerState::kStarting:
      return check_start(slot, now);
    case WorkerState::kRetiring:
      return check_retiring(slot, now);
    case WorkerState::kBusy:
      return plan_.settings.first_deadline() ? check_connection(slot, now) : kNever;
    default:
      return kNever;
  }
}

// Only while it is still about the same connection: a worker that finished it leaves by itself.
Nanoseconds WorkerDeadlines::check_kill(uint32_t slot, Nanoseconds now) {
  WorkerRecord& record = table_.at(slot);
  if (now < record.kill_at) return record.kill_at;
  const bool is_in_hand = board_.is_in_hand(slot, record.ending);
  if (is_in_hand) table_.signal(slot, SIGKILL);
  record.kill_at = is_in_hand ? now + kTermToKill : 0;
  return is_in_hand ? record.kill_at : kNever;
}

Nanoseconds WorkerDeadlines::check_stopped(uint32_t slot, Nanoseconds now) {
  const WorkerRecord& record = table_[slot];
  const Nanoseconds until =
      record.stopped_at + kStoppedTooLong + table_.standstills.since(record.stopped_at);
  if (now < until) return next_look(until, now);
  warn(record.pid, Event::kWorkerStopped, "has been stopped for 5 s: killed");
  table_.note_ending(slot, shm::kEndAny, now + kTermToKill);
  table_.signal(slot, SIGKILL);
  return record.kill_at;
}

// A worker that waits for a start ticket is not late, as long as others come through.
Nanoseconds WorkerDeadlines::check_start(uint32_t slot, Nanoseconds now) {
  const shm::Slot& s = board_.slot(slot);
  auto step = static_cast<shm::StartingStep>(s.starting_step.load());
  Nanoseconds timeout = plan_.settings.start_timeout;
  if (timeout == 0) return kNever;
  Nanoseconds since = table_[slot].forked_at;
  if (step == shm::StartingStep::kHasTicket) since = std::max<Nanoseconds>(since, s.since.load());
  since = std::min(since, now);  // whatever the slot says
  if (step == shm::StartingStep::kWaitsForTicket)
    since = std::max(since, table_.start_progress()) + timeout;
  if (since <= now) timeout += table_.standstills.since(since);
  if (since > now || now - since < timeout) return next_look(since + timeout, now);
  timeout = plan_.settings.start_timeout;
  warn(table_[slot].pid, Event::kStartTimedOut,
       "did not get through start in " + std::to_string(timeout / kMillisecond) + " ms: killed");
  table_.note_ending(slot, 1, now + kTermToKill);  // any number but kEndAny: see judge()
  table_.signal(slot, SIGKILL);
  return table_[slot].kill_at;
}

// A handler's `stop` that hangs would hold the slot for ever: it has as long as a drain.
Nanoseconds WorkerDeadlines::check_retiring(uint32_t slot, Nanoseconds now) {
  Nanoseconds since = std::min<Nanoseconds>(board_.slot(slot).since.load(), now);
  const Nanoseconds timeout = plan_.settings.drain_timeout + table_.standstills.since(since);
  if (now - since < timeout) return next_look(since + timeout, now);
  warn(table_[slot].pid, Event::kDrainForced,
       "was to leave " + std::to_string((now - since) / kMillisecond) + " ms ago: ended");
  order_end(slot, shm::kEndAny, now);
  return table_[slot].kill_at;
}

Nanoseconds WorkerDeadlines::check_connection(uint32_t slot, Nanoseconds now) {
  const shm::Slot& s = board_.slot(slot);
  uint64_t number = s.begun.load();
  const Nanoseconds since = std::min<Nanoseconds>(s.since.load(), now);  // whatever the slot says
  const Nanoseconds slow = plan_.settings.slow_timeout, timeout = plan_.settings.connection_timeout;
  // Not one yet: its PROXY header is waited for. It begins anew then.
  if (!board_.is_in_hand(slot, number)) return now + plan_.settings.first_deadline();
  Nanoseconds next = kNever;
  if (slow && table_[slot].slow_told != number) {
    next = since + slow;
    if (now >= next) tell_slow(slot, number, now - since), next = kNever;
  }
  if (timeout == 0) return next;
  const WorkerRecord& record = table_[slot];
  const Nanoseconds stood =
      table_.standstills.since(since) + (record.stood_with == number ? record.stood : 0);
  const Nanoseconds end = std::max<Nanoseconds>(since + timeout, s.extended_until.load()) + stood;
  if (now < end) return std::min(next, next_look(end, now));
  const std::string what = in_hand_text(s);
  if (!order_end(slot, number, now)) return std::min(next, now + timeout);
  warn(table_[slot].pid, Event::kConnectionTimedOut,
       "has served " + what + " for " + std::to_string((now - since) / kMillisecond) +
           " ms: ended (timeouts.connection)");
  return table_[slot].kill_at;
}

void WorkerDeadlines::tell_slow(uint32_t slot, uint64_t number, Nanoseconds took) {
  const std::string what = in_hand_text(board_.slot(slot));
  if (!board_.is_in_hand(slot, number))
    return;  // it was done in the meantime, and `what` may be the next one
  table_.at(slot).slow_told = number;
  warn(table_[slot].pid, Event::kConnectionSlow,
       "has served " + what + " for " + std::to_string(took / kMillisecond) +
           " ms so far (timeouts.slow)");
}

}  // namespace preforkd
