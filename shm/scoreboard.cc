#include "shm/scoreboard.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "shm/admissions.h"
#include "shm/bits.h"
#include "shm/note.h"
#include "shm/tickets.h"

namespace preforkd::shm {
namespace {

uint64_t bit_of(uint32_t slot) { return uint64_t{1} << (slot % kSlotsPerWord); }

uint64_t& counter_of(Outcome outcome, Counters& counters) {
  switch (outcome) {
    case Outcome::kServed:
      return counters.served;
    case Outcome::kAborted:
      return counters.aborted;
    case Outcome::kFailed:
      break;
  }
  return counters.failed;
}

uint64_t& counter_of(Ending ending, Counters& counters) {
  switch (ending) {
    case Ending::kRetired:
      return counters.retired;
    case Ending::kRecycled:
      return counters.recycled;
    case Ending::kTimedOut:
      return counters.timed_out;
    case Ending::kCrashed:
      break;
  }
  return counters.crashed;
}

// Those in workers come first in the table, and no others.
constexpr bool has_all_in_workers() {
  for (size_t i = 0; i < std::size(kLimitRows); ++i)
    if (kLimitRows[i].is_time() != (i >= std::size(kLimitsOfDecision))) return false;
  return true;
}
static_assert(has_all_in_workers());

}  // namespace

#ifdef PREFORKD_DEBUG
SlotWriter::SlotWriter(Slot& slot) : slot_(slot) {
  uint32_t nobody = 0;
  if (!slot_.writer.compare_exchange_strong(nobody, static_cast<uint32_t>(getpid()))) abort();
}
SlotWriter::~SlotWriter() {
  auto me = static_cast<uint32_t>(getpid());
  if (!slot_.writer.compare_exchange_strong(me, 0)) abort();
}
#endif

Scoreboard::Scoreboard(const Mapping& mapping, std::string_view pool, uint32_t generation,
                       pid_t supervisor, uint32_t start_tickets, Nanoseconds now)
    : mapping_(mapping), generation_(generation), words_(mapping.capacity() / kSlotsPerWord) {
  Header& h = segment().header;
  create_tickets(segment().tickets.start, start_tickets);
  create_tickets(segment().tickets.retire, 0);
  h.version = kLayoutVersion;
  h.generation = generation;
  h.size = segment_size(capacity());
  h.capacity = capacity();
  h.supervisor = supervisor;
  h.created = now;
  pool.copy(h.pool, sizeof h.pool - 1);
  // Last: control takes a segment without the magic for one that is not ready.
  std::atomic_ref(h.magic).store(kMagic, std::memory_order_release);
}

// --- before fork ---------------------------------------------------------------------------------

uint32_t Scoreboard::prepare(Nanoseconds now) {
  uint32_t word = 0;
  while (~alive_[word] == 0) ++word;
  uint32_t index = word * kSlotsPerWord + static_cast<uint32_t>(std::countr_one(alive_[word]));
  Slot& s = slot(index);
  SlotWriter writer(s);
  s.pid.store(0);
  s.generation.store(generation_);
  s.forked_at.store(now);
  s.end.store(0);
  s.leave.store(0);
  s.client_ended.store(0);
  s.since.store(now);
  s.starting_step.store(static_cast<uint32_t>(StartingStep::kForked));
  s.state.store(static_cast<uint32_t>(WorkerState::kStarting));
  set_alive(index, true);
  return index;
}

void Scoreboard::forked(uint32_t index, pid_t pid) {
  slot(index).pid.store(static_cast<uint32_t>(pid));
  sums_.forked += 1;
  publish_sums(0);
}

void Scoreboard::fork_failed(uint32_t index) {
  slot(index).state.store(static_cast<uint32_t>(WorkerState::kEmpty));
  set_alive(index, false);
}

void Scoreboard::set_alive(uint32_t index, bool alive) {
  uint64_t& word = alive_[index / kSlotsPerWord];
  word = alive ? word | bit_of(index) : word & ~bit_of(index);
  alive_count_ += alive ? 1 : -1u;
  publish_scan_words();
}

void Scoreboard::publish_scan_words() {
  uint32_t used = words_;
  while (used > 0 && alive_[used - 1] == 0) --used;
  Word& published = segment().published.scan_words;
  if (published.load(std::memory_order_relaxed) != used) published.store(used);
}

// --- while they live -----------------------------------------------------------------------------

bool Scoreboard::is_alive(uint32_t index) const {
  return alive_[index / kSlotsPerWord] & bit_of(index);
}

bool Scoreboard::is_idle(uint32_t index) const {
  return is_alive(index) && mapping_.bits(index / kSlotsPerWord).idle.load() & bit_of(index);
}

bool Scoreboard::is_in_hand(uint32_t index, uint64_t number) const {
  const Slot& s = slot(index);
  const uint64_t done = s.served.load() + s.failed.load() + s.aborted.load();
  return number == kEndAny || (s.begun.load() == number && done < number);
}

Counts Scoreboard::counts() const {
  Counts c;
  for (uint32_t w = 0; w < words_; ++w) {
    if (alive_[w] == 0) continue;
    const Bits& bits = mapping_.bits(w);
    uint64_t idle = bits.idle.load() & alive_[w], busy = bits.busy.load() & alive_[w] & ~idle;
    c.idle += count_bits(idle);
    c.busy += count_bits(busy);
    // Neither: starting or retiring, few at any time. What claims to be anything else is on its way
    // between two bits, and counts as what it will be: starting has no claim to a bit yet.
    for (uint64_t rest = alive_[w] & ~idle & ~busy; rest; rest &= rest - 1) {
      auto index = w * kSlotsPerWord + static_cast<uint32_t>(std::countr_zero(rest));
      switch (static_cast<WorkerState>(slot(index).state.load())) {
        case WorkerState::kStarting:
          ++c.starting;
          break;
        case WorkerState::kRetiring:
          ++c.retiring;
          break;
        default:
          ++c.busy;
      }
    }
  }
  return c;
}

std::vector<uint32_t> Scoreboard::idle_longest(uint32_t count) const {
  std::vector<std::pair<uint64_t, uint32_t>> idle;
  for (uint32_t w = 0; w < words_; ++w) {
    uint64_t bits = alive_[w] ? mapping_.bits(w).idle.load() & alive_[w] : 0;
    for (; bits; bits &= bits - 1) {
      auto index = w * kSlotsPerWord + static_cast<uint32_t>(std::countr_zero(bits));
      idle.emplace_back(slot(index).since.load(), index);
    }
  }
  auto wanted = std::min<size_t>(count, idle.size());
  std::partial_sort(idle.begin(), idle.begin() + static_cast<ptrdiff_t>(wanted), idle.end());
  std::vector<uint32_t> slots;
  for (size_t i = 0; i < wanted; ++i) slots.push_back(idle[i].second);
  return slots;
}

uint32_t Scoreboard::peak() const { return segment().shared.peak_busy.load(); }

uint32_t Scoreboard::take_peak() {
  // Emptied before counting: a worker that becomes busy meanwhile is counted here, or raises the new peak.
  Word& peak = segment().shared.peak_busy;
  const uint32_t old = peak.exchange(0), busy = counts().busy;
  for (uint32_t seen = peak.load(); seen < busy && !peak.compare_exchange_weak(seen, busy);) {
  }
  return old;
}

// --- after reap ----------------------------------------------------------------------------------

Scoreboard::Last Scoreboard::last_words(uint32_t index) const {
  const Slot& s = slot(index);
  Last last;
  last.state = static_cast<WorkerState>(s.state.load());
  last.begun = s.begun.load();
  last.active = last.begun > s.served.load() + s.failed.load() + s.aborted.load();
  last.client_ended =
      last.active && s.client_ended.load() == client_end_of(s.pid.load(), last.begun);
  last.recycle = s.recycle.load() != 0;
  last.since = s.since.load();
  last.peer = load_peer(s);
  return last;
}

void Scoreboard::note_client_ended(uint32_t index, pid_t worker, uint64_t connection) const {
  slot(index).client_ended.store(client_end_of(static_cast<uint32_t>(worker), connection));
}

void Scoreboard::add_up(const Slot& s, const Last& last, Outcome in_hand, Nanoseconds now) {
  uint64_t measured = 0;
  for (const Word& bucket : s.histogram) measured += bucket.load(std::memory_order_relaxed);
  for_each_slot_counter(s, sums_, [](bool is_sum, const auto& in_slot, uint64_t& sum) {
    add(is_sum, sum, in_slot.load());
  });
  if (last.active) ++counter_of(in_hand, sums_);
  const uint64_t forked_at = s.forked_at.load();
  sums_.worker_ns += now > forked_at ? now - forked_at : 0;
  // Of a program, or ended with its worker: nobody else measures it. Or it was measured, and died before it counted it.
  if (!last.active || measured >= last.begun) return;
  const uint64_t in_hand_ns = now > last.since ? now - last.since : 0;
  sums_.busy_ns += in_hand_ns;
  ++sums_.histogram[histogram_bucket(in_hand_ns / kMicrosecond)];
  sums_.max_us = std::max<uint64_t>(sums_.max_us, in_hand_ns / kMicrosecond);
}

// Steps 1 and 2 of Gone. (What a worker scribbled over the other edition is written over.)
void Scoreboard::publish_sums(uint32_t passed_over) {
  Gone& gone = segment().gone;
  ++edition_;
  auto* to = reinterpret_cast<Long*>(&gone.totals[edition_ % 2]);
  const auto* from = reinterpret_cast<const uint64_t*>(&sums_);
  for (size_t i = 0; i < sizeof sums_ / sizeof *from; ++i)
    to[i].store(from[i], std::memory_order_relaxed);
  gone.edition.store(edition_of(edition_, passed_over));
}

void Scoreboard::fold(uint32_t index, Ending ending, Outcome in_hand, Nanoseconds now) {
  Slot& s = slot(index);
  s.writer.store(0);  // the dead write no more, whatever they were doing
  SlotWriter writer(s);
  Bits& bits = mapping_.bits(index / kSlotsPerWord);
  bits.idle.fetch_and(~bit_of(index));
  bits.busy.fetch_and(~bit_of(index));

  add_up(s, last_words(index), in_hand, now);
  ++counter_of(ending, sums_);
  end_admission(mapping_,
                index);  // before its end is to be seen: who waited for that may come at once
  publish_sums(index + 1);
  // Zeroed here and not when the slot is taken again: a fork should not wait for it.
  s.state.store(static_cast<uint32_t>(WorkerState::kEmpty));
  for_each_slot_counter(
      s, sums_, [](bool, auto& in_slot, uint64_t) { in_slot.store(0, std::memory_order_relaxed); });
  s.begun.store(0);
  s.recycle.store(0);
  s.extended_until.store(0);
  clear_note(s);
  for (auto& word : s.peer) word.store(0);
  set_alive(index, false);
  segment().gone.edition.store(edition_of(edition_, 0));
}

// --- for control ---------------------------------------------------------------------------------

void Scoreboard::record(Action action, Reason reason, uint32_t count, const Counts& counts,
                        uint32_t queued, uint32_t peak, const Limits& limits, uint32_t patience,
                        Nanoseconds now) {
  Decision& d = mapping_.decision(next_decision_);
  d.sequence.store(0, std::memory_order_release);
  d.at.store(now, std::memory_order_relaxed);
  d.action.store(static_cast<uint32_t>(action), std::memory_order_relaxed);
  d.reason.store(static_cast<uint32_t>(reason), std::memory_order_relaxed);
  d.count.store(count, std::memory_order_relaxed);
  d.idle.store(counts.idle, std::memory_order_relaxed);
  d.busy.store(counts.busy, std::memory_order_relaxed);
  d.starting.store(counts.starting, std::memory_order_relaxed);
  d.queued.store(queued, std::memory_order_relaxed);
  d.peak.store(peak, std::memory_order_relaxed);
  for (size_t i = 0; i < std::size(kLimitsOfDecision); ++i)
    (d.*kLimitsOfDecision[i]).store(limits.*kLimitRows[i].workers, std::memory_order_relaxed);
  d.patience.store(patience, std::memory_order_relaxed);
  d.sequence.store(next_decision_++, std::memory_order_release);
}

void Scoreboard::count_template() {
  sums_.templates += 1;
  publish_sums(0);
}

void Scoreboard::count_lost_template() {
  sums_.templates_lost += 1;
  publish_sums(0);
}

void Scoreboard::set_at_max(bool at_max, Nanoseconds now) {
  const uint64_t since = sums_.at_max_since;
  if (at_max == (since != 0)) return;
  if (!at_max) sums_.at_max_ns += now > since ? now - since : 0;
  sums_.at_max_since = at_max ? now : 0;
  publish_sums(0);
}

}  // namespace preforkd::shm
