#include "shm/reader.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "shm/layout.h"

#include "base/read_exactly.h"

namespace preforkd::shm {
namespace {

// Whether the header's word on the size is the kernel's, which no worker can change: a capacity that is made
// up would have control find memory for slots that are not there.
bool is_of_its_size(int fd, const Header& h) {
  struct stat file;
  return h.capacity > 0 && h.capacity <= kMaxCapacity && h.capacity % kSlotsPerWord == 0 &&
         fstat(fd, &file) == 0 && file.st_size == static_cast<off_t>(segment_size(h.capacity));
}

template <class T>
T value(const std::atomic<T>& a) {
  return a.load(std::memory_order_relaxed);  // a private copy: nobody writes it
}

uint64_t elapsed(Nanoseconds now, Nanoseconds since) {
  return since && now > since ? now - since : 0;
}

void take_totals(Counters& figures, const Totals& totals, Nanoseconds now) {
  for_each_counter(figures, totals, [](const CounterRow&, uint64_t& figure, const Long& total) {
    figure = value(total);
  });
  figures.at_max_ns += elapsed(now, value(totals.at_max_since));
}

void add_slot(Snapshot& s, const Slot& slot, uint32_t index, Nanoseconds now) {
  auto state = static_cast<WorkerState>(value(slot.state));
  if (state == WorkerState::kEmpty || static_cast<uint32_t>(state) >= kWorkerStates) return;
  WorkerView w;
  w.slot = index;
  w.pid = value(slot.pid);
  w.generation = value(slot.generation);
  w.state = state;
  w.waits_for_start_ticket =
      state == WorkerState::kStarting &&
      value(slot.starting_step) == static_cast<uint32_t>(StartingStep::kWaitsForTicket);
  w.since = value(slot.since);
  w.forked_at = value(slot.forked_at);
  w.served = value(slot.served);
  w.failed = value(slot.failed);
  w.aborted = value(slot.aborted);
  w.active = value(slot.begun) > w.served + w.failed + w.aborted;
  w.client_ended = w.active && value(slot.client_ended) == client_end_of(w.pid, value(slot.begun));
  w.busy_ns = value(slot.busy_ns) + (w.active ? elapsed(now, w.since) : 0);
  w.max_us = value(slot.max_us);
  w.peer = load_peer(slot);
  w.note = load_note(slot);

  s.starting += state == WorkerState::kStarting;
  s.idle += state == WorkerState::kIdle;
  s.busy += state == WorkerState::kBusy;
  s.retiring += state == WorkerState::kRetiring;
  s.active += w.active;
  for_each_slot_counter(slot, s.figures, [](bool is_sum, const auto& in_slot, uint64_t& figure) {
    add(is_sum, figure, value(in_slot));
  });
  s.figures.busy_ns += w.active ? elapsed(now, w.since) : 0;
  s.figures.worker_ns += elapsed(now, w.forked_at);
  s.workers.push_back(w);
}

}  // namespace

std::optional<Snapshot> SegmentReader::read(Nanoseconds now) const {
  auto head = std::make_unique<Segment>();
  constexpr int kTries = 100;
  for (int attempt = 0;; ++attempt) {
    if (!read_exactly(fd_.get(), head.get(), sizeof *head, 0)) return std::nullopt;
    const Header& h = head->header;
    if (h.magic != kMagic || h.version != kLayoutVersion || !is_of_its_size(fd_.get(), h))
      return std::nullopt;
    const bool last = attempt == kTries;
    const uint64_t edition = value(head->gone.edition);
    uint32_t slots =
        std::min(value(head->published.scan_words) * uint64_t{kSlotsPerWord}, uint64_t{h.capacity});
    auto live = std::make_unique<Slot[]>(slots);
    if (!read_exactly(fd_.get(), live.get(), slots * sizeof(Slot), slots_offset(h.capacity)))
      return std::nullopt;
    Long again;
    Word bound;
    if (!read_exactly(fd_.get(), &again, sizeof again, offsetof(Segment, gone.edition)) ||
        !read_exactly(fd_.get(), &bound, sizeof bound, offsetof(Segment, published.scan_words)))
      return std::nullopt;
    if (!last && (value(again) != edition || value(bound) != value(head->published.scan_words)))
      continue;

    Snapshot s;
    s.generation = h.generation;
    s.capacity = h.capacity;
    s.peak_busy = value(head->shared.peak_busy);
    s.queued = value(head->gone.queued);
    const Published& p = head->published;
    s.template_view = {static_cast<TemplateState>(value(p.template_state)), value(p.template_pid),
                       value(p.template_since)};
    take_totals(s.figures, head->gone.totals[edition_number(edition) % 2], now);
    for (size_t i = 0; i < kRejections; ++i)
      s.figures.rejected[i] += value(head->shared.turned_away[i]);
    for (uint32_t i = 0; i < slots; ++i)
      if (i + 1 != edition_slot(edition)) add_slot(s, live[i], i, now);
    return s;
  }
}

std::vector<DecisionView> SegmentReader::decisions() const {
  std::vector<DecisionView> found;
  auto header = std::make_unique<Header>();
  if (!read_exactly(fd_.get(), header.get(), sizeof *header, 0) || header->magic != kMagic ||
      header->version != kLayoutVersion || !is_of_its_size(fd_.get(), *header))
    return found;
  auto ring = std::make_unique<Decision[]>(kDecisions);
  if (!read_exactly(fd_.get(), ring.get(), kDecisions * sizeof(Decision),
                    decisions_offset(header->capacity)))
    return found;
  for (uint32_t i = 0; i < kDecisions; ++i) {
    const Decision& d = ring[i];
    if (value(d.sequence) == 0) continue;
    found.push_back({value(d.sequence), value(d.at), static_cast<Action>(value(d.action)),
                     static_cast<Reason>(value(d.reason)), value(d.count), value(d.idle),
                     value(d.busy), value(d.starting), value(d.queued), value(d.peak),
                     value(d.patience)});
    for (size_t row = 0; row < std::size(kLimitsOfDecision); ++row)
      found.back().limits.*kLimitRows[row].workers = value(d.*kLimitsOfDecision[row]);
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.number < b.number; });
  return found;
}

}  // namespace preforkd::shm
