// A supervisor's workers, and how long each may take: to start, to serve a connection, to leave, to stay stopped.
#include <signal.h>

#include <algorithm>
#include <string>

#include "base/log.h"
#include "shm/note.h"
#include "supervisor/workforce.h"

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

bool Workforce::in_hand(uint32_t slot, uint64_t number) const {
  const shm::Slot& s = board_.slot(slot);
  uint64_t done = s.served.load() + s.failed.load() + s.aborted.load();
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
      const Nanoseconds until =
          record.stopped_at + kStoppedTooLong + standstills_.since(record.stopped_at);
      if (now < until) {
        next = std::min(next, next_look(until, now));
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
  if (since <= now) timeout += standstills_.since(since);
  if (since > now || now - since < timeout) return next_look(since + timeout, now);
  timeout = plan_.settings.start_timeout;
  warn(records_[slot].pid, Event::kStartTimedOut,
       "did not get through start in " + std::to_string(timeout / kMillisecond) + " ms: killed");
  note_ending(slot, 1, now);  // any number but kEndAny: see judge()
  send(records_[slot], SIGKILL);
  return records_[slot].kill_at;
}

// A handler's `stop` that hangs would hold the slot for ever: it has as long as a drain.
Nanoseconds Workforce::check_retiring(uint32_t slot, Nanoseconds now) {
  Nanoseconds since = std::min<Nanoseconds>(board_.slot(slot).since.load(), now);
  const Nanoseconds timeout = plan_.settings.drain_timeout + standstills_.since(since);
  if (now - since < timeout) return next_look(since + timeout, now);
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
  const Record& record = records_[slot];
  const Nanoseconds stood =
      standstills_.since(since) + (record.stood_with == number ? record.stood : 0);
  const Nanoseconds end = std::max<Nanoseconds>(since + timeout, s.extended_until.load()) + stood;
  if (now < end) return std::min(next, next_look(end, now));
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

}  // namespace preforkd
