#include "shm/scoreboard.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "shm/tickets.h"

namespace preforkd::shm {
namespace {

// A total has one writer, the supervisor: a plain load and store is enough.
void add(Long& total, uint64_t amount) {
  total.store(total.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

uint64_t bit_of(uint32_t slot) { return uint64_t{1} << (slot % kSlotsPerWord); }

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
    : mapping_(mapping), generation_(generation), alive_(mapping.capacity() / kSlotsPerWord) {
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
  std::atomic_thread_fence(std::memory_order_release);
  h.magic = kMagic;
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
  s.since.store(now);
  s.starting_step.store(static_cast<uint32_t>(StartingStep::kForked));
  s.state.store(static_cast<uint32_t>(WorkerState::kStarting));
  set_alive(index, true);
  return index;
}

void Scoreboard::forked(uint32_t index, pid_t pid) {
  slot(index).pid.store(static_cast<uint32_t>(pid));
  add(segment().totals.forked, 1);
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
  auto used = static_cast<uint32_t>(alive_.size());
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

Counts Scoreboard::counts() const {
  Counts c;
  for (uint32_t w = 0; w < alive_.size(); ++w) {
    if (alive_[w] == 0) continue;
    const Bits& bits = mapping_.bits(w);
    uint64_t idle = bits.idle.load() & alive_[w], busy = bits.busy.load() & alive_[w] & ~idle;
    c.idle += static_cast<uint32_t>(std::popcount(idle));
    c.busy += static_cast<uint32_t>(std::popcount(busy));
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
  for (uint32_t w = 0; w < alive_.size(); ++w) {
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

uint64_t Scoreboard::connections_served() const {
  uint64_t served = served_by_the_dead_;
  for (uint32_t w = 0; w < alive_.size(); ++w)
    for (uint64_t bits = alive_[w]; bits; bits &= bits - 1)
      served +=
          slot(w * kSlotsPerWord + static_cast<uint32_t>(std::countr_zero(bits))).served.load();
  return served;
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
  last.active = last.begun > s.served.load() + s.failed.load();
  last.recycle = s.recycle.load() != 0;
  last.since = s.since.load();
  for (size_t i = 0; i < last.peer.size(); ++i) last.peer[i] = s.peer[i].load();
  return last;
}

void Scoreboard::add_to_totals(const Slot& s, const Last& last, bool in_hand_served,
                               Nanoseconds now) {
  Totals& t = segment().totals;
  add(t.served, s.served.load() + (last.active && in_hand_served));
  add(t.failed, s.failed.load() + (last.active && !in_hand_served));
  served_by_the_dead_ += s.served.load() + (last.active && in_hand_served);
  uint64_t in_hand_ns = last.active && now > last.since ? now - last.since : 0;
  add(t.busy_ns, s.busy_ns.load() + in_hand_ns);
  uint64_t forked_at = s.forked_at.load();
  add(t.worker_ns, now > forked_at ? now - forked_at : 0);
  uint64_t max_us = std::max(t.max_us.load(), s.max_us.load());
  for (uint32_t b = 0; b < kHistogramBuckets; ++b)
    if (uint32_t n = s.histogram[b].load(std::memory_order_relaxed)) add(t.histogram[b], n);
  if (last.active && in_hand_served) {  // a program that exited 0: nobody else measures it
    add(t.histogram[histogram_bucket(in_hand_ns / kMicrosecond)], 1);
    max_us = std::max<uint64_t>(max_us, in_hand_ns / kMicrosecond);
  }
  t.max_us.store(max_us);
}

void Scoreboard::fold(uint32_t index, Ending ending, bool in_hand_served, Nanoseconds now) {
  Slot& s = slot(index);
  Totals& t = segment().totals;
  s.writer.store(0);  // the dead write no more, whatever they were doing
  SlotWriter writer(s);
  Bits& bits = mapping_.bits(index / kSlotsPerWord);
  bits.idle.fetch_and(~bit_of(index));
  bits.busy.fetch_and(~bit_of(index));

  Last last = last_words(index);
  t.sequence.fetch_add(1);  // odd: a reader waits
  add_to_totals(s, last, in_hand_served, now);
  switch (ending) {
    case Ending::kRetired:
      add(t.retired, 1);
      break;
    case Ending::kRecycled:
      add(t.recycled, 1);
      break;
    case Ending::kCrashed:
      add(t.crashed, 1);
      break;
    case Ending::kTimedOut:
      add(t.timed_out, 1);
      break;
  }
  // Zeroed here and not when the slot is taken again: a fork should not wait for it.
  s.state.store(static_cast<uint32_t>(WorkerState::kEmpty));
  s.served.store(0);
  s.failed.store(0);
  s.begun.store(0);
  s.busy_ns.store(0);
  s.max_us.store(0);
  s.recycle.store(0);
  for (auto& word : s.peer) word.store(0);
  for (auto& bucket : s.histogram) bucket.store(0, std::memory_order_relaxed);
  set_alive(index, false);
  t.sequence.fetch_add(1);
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
  d.min.store(limits.min, std::memory_order_relaxed);
  d.max.store(limits.max, std::memory_order_relaxed);
  d.min_spare.store(limits.min_spare, std::memory_order_relaxed);
  d.max_spare.store(limits.max_spare, std::memory_order_relaxed);
  d.patience.store(patience, std::memory_order_relaxed);
  d.sequence.store(next_decision_++, std::memory_order_release);
}

void Scoreboard::set_at_max(bool at_max, Nanoseconds now) {
  Totals& t = segment().totals;
  uint64_t since = t.at_max_since.load();
  if (at_max == (since != 0)) return;
  t.sequence.fetch_add(1);
  if (!at_max) add(t.at_max_ns, now > since ? now - since : 0);
  t.at_max_since.store(at_max ? now : 0);
  t.sequence.fetch_add(1);
}

}  // namespace preforkd::shm
