#include "worker/seat.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "shm/bits.h"
#include "shm/doorbell.h"
#include "shm/note.h"
#include "shm/scoreboard.h"
#include "shm/tickets.h"

namespace preforkd {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

Seat::Seat(const shm::Mapping& mapping, uint32_t slot)
    : segment_(mapping.segment()),
      slot_(mapping.slot(slot)),
      bits_(mapping.bits(slot / shm::kSlotsPerWord)),
      mapping_(mapping),
      bit_(uint64_t{1} << (slot % shm::kSlotsPerWord)) {}

void Seat::claim(pid_t self) { slot_.pid.store(static_cast<uint32_t>(self)); }

bool Seat::wait_to_start() {
  auto step = [this](shm::StartingStep s) { slot_.starting_step.store(static_cast<uint32_t>(s)); };
  step(shm::StartingStep::kWaitsForTicket);
  if (!shm::wait_for_ticket(segment_.tickets.start)) return false;
  slot_.since.store(monotonic_now());  // timeouts.start counts from here
  step(shm::StartingStep::kHasTicket);
  return true;
}

void Seat::move_to(WorkerState state) {
  if (!worker_may_move(state_, state)) abort();  // a defect in worker/intake.cc
  state_ = state;
  slot_.state.store(static_cast<uint32_t>(state), std::memory_order_release);
}

void Seat::started(Nanoseconds now) {
  shm::SlotWriter writer(slot_);
  slot_.since.store(now, kRelaxed);
  // The bit before the state: in between the supervisor counts this worker as idle, and never as neither
  // starting nor idle, which would look like a worker missing.
  bits_.idle.fetch_or(bit_);
  move_to(WorkerState::kIdle);
  if (segment_.published.ring_on.load() & shm::kRingOnStarted) shm::ring(segment_.doorbell);
}

void Seat::begin(Nanoseconds now, const shm::PeerWords& peer) {
  {
    shm::SlotWriter writer(slot_);
    // Before the new number: what was said of the connection before is not said of this one.
    if (std::exchange(noted_, false)) shm::clear_note(slot_);
    if (std::exchange(extended_, false)) slot_.extended_until.store(0);
    // `since` first: whoever reads the new number reads its time, and not that of the connection before.
    slot_.since.store(now, kRelaxed);
    slot_.begun.store(++begun_, std::memory_order_release);
    shm::store_peer(slot_, peer);
    began_at_ = now;
    move_to(WorkerState::kBusy);
  }
  become_busy();
  tick(now);
}

void Seat::receive(Nanoseconds now, const shm::PeerWords& peer) {
  {
    shm::SlotWriter writer(slot_);
    slot_.since.store(now, kRelaxed);
    shm::store_peer(slot_, peer);
    move_to(WorkerState::kBusy);
  }
  become_busy();
}

void Seat::reject(Rejection reason) {
  shm::SlotWriter writer(slot_);
  shm::Word& count = slot_.rejected[static_cast<size_t>(reason)];
  count.store(count.load(kRelaxed) + 1);
}

void Seat::become_busy() {
  if (busy_) return;
  busy_ = true;
  bits_.busy.fetch_or(bit_);
  bits_.idle.fetch_and(~bit_);
  count_and_ring();
}

// One pass over the bitmaps: who is idle, who is busy, and whether the supervisor wants to know.
void Seat::count_and_ring() {
  shm::Published& published = segment_.published;
  uint32_t idle = 0, busy = 0;
  const uint32_t words = mapping_.scan_words();
  for (uint32_t w = 0; w < words; ++w) {
    const shm::Bits& bits = mapping_.bits(w);
    idle += shm::count_bits(bits.idle.load());
    busy += shm::count_bits(bits.busy.load());
  }
  busy_seen_ = busy;
  shm::Word& peak = segment_.shared.peak_busy;
  for (uint32_t seen = peak.load(kRelaxed);
       seen < busy && !peak.compare_exchange_weak(seen, busy);) {
  }
  bool wanted = idle < published.low_water.load();
  // The watch is armed once a sleep: whoever takes it rings, the others pass.
  if (segment_.shared.watch.load() != 0 && segment_.shared.watch.exchange(0) != 0) wanted = true;
  if (wanted) shm::ring(segment_.doorbell);
}

// The first connection of each second says so to control, which waits on this word while nothing
// happens.
void Seat::tick(Nanoseconds now) {
  auto second = static_cast<uint32_t>(now / kSecond);
  shm::Word& word = segment_.shared.tick;
  uint32_t last = word.load(kRelaxed);
  if (last != second && word.compare_exchange_strong(last, second)) shm::wake_all(word);
}

void Seat::note(std::string_view text) {
  shm::SlotWriter writer(slot_);
  shm::store_note(slot_, text);
  noted_ = true;
}

void Seat::extend(Nanoseconds until) {
  shm::SlotWriter writer(slot_);
  if (!extended_ || until > slot_.extended_until.load()) slot_.extended_until.store(until);
  extended_ = true;
}

void Seat::done(Nanoseconds now, Outcome outcome) {
  uint64_t spent = now > began_at_ ? now - began_at_ : 0;
  uint64_t us = spent / kMicrosecond;
  shm::SlotWriter writer(slot_);
  // First: what is in a bucket, nobody measures again (Scoreboard::fold).
  shm::Word& bucket = slot_.histogram[histogram_bucket(us)];
  bucket.store(bucket.load(kRelaxed) + 1, kRelaxed);
  busy_ns_ += spent;
  slot_.busy_ns.store(busy_ns_, kRelaxed);
  if (us > max_us_) slot_.max_us.store(max_us_ = us, kRelaxed);
  // Last, and seq_cst: after this the connection is not in hand any more (see `end` above).
  switch (outcome) {
    case Outcome::kServed:
      slot_.served.store(++served_);
      break;
    case Outcome::kFailed:
      slot_.failed.store(++failed_);
      break;
    case Outcome::kAborted:
      slot_.aborted.store(++aborted_);
      break;
  }
  if (segment_.published.ring_on.load() & shm::kRingOnCompleted) shm::ring(segment_.doorbell);
}

void Seat::idle(Nanoseconds now) {
  shm::SlotWriter writer(slot_);
  slot_.since.store(now, kRelaxed);
  busy_ = false;
  bits_.idle.fetch_or(bit_);
  bits_.busy.fetch_and(~bit_);
  move_to(WorkerState::kIdle);
}

void Seat::retire(Nanoseconds now) {
  shm::SlotWriter writer(slot_);
  slot_.since.store(now, kRelaxed);
  move_to(WorkerState::kRetiring);
  busy_ = false;
  bits_.idle.fetch_and(~bit_);
  bits_.busy.fetch_and(~bit_);
}

bool Seat::is_one_too_many() {
  return segment_.published.leaving.load() == shm::kAboveMax && may_retire();
}

bool Seat::may_retire() { return shm::try_ticket(segment_.tickets.retire); }

bool Seat::is_on_trial() const { return segment_.published.leaving.load() == shm::kOnTrial; }

bool Seat::must_leave() const {
  return segment_.published.leaving.load() == shm::kDrain || slot_.leave.load() != 0;
}

bool Seat::must_end(uint64_t number) const {
  uint64_t ordered = slot_.end.load();
  return ordered != 0 && (ordered == number || ordered == shm::kEndAny);
}

uint64_t Seat::still_accepts_from(Nanoseconds now) const {
  const shm::Published& p = segment_.published;
  const bool still = p.leaving.load() == shm::kDrain && now < p.accept_until.load();
  return still ? p.accept_from.load() : 0;
}

// Its slot first: a supervisor that takes the word finds the slot.
void Seat::ask_for_recycling() {
  if (std::exchange(asked_, true)) return;
  slot_.recycle.store(1);
  segment_.shared.recycle.store(1);
  shm::ring(segment_.doorbell);
}

void Seat::refused() { segment_.shared.refused.fetch_add(1, kRelaxed); }

}  // namespace preforkd
