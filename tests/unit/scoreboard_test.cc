// shm/scoreboard and shm/reader: the supervisor's books, and what control makes of them while many
// processes write, when the segment is damaged, and when a worker has written nonsense over all of it.
#include "shm/scoreboard.h"

#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <random>
#include <vector>

#include "base/memory_file.h"
#include "control/totals.h"
#include "shm/doorbell.h"
#include "shm/reader.h"
#include "shm/tickets.h"
#include "tests/unit/unit_test.h"
#include "worker/seat.h"

using namespace preforkd;
using namespace preforkd::shm;
using unit::Child;

namespace {

constexpr Nanoseconds kNow = 5000 * kSecond;
constexpr PeerWords kPeer = {AF_INET | uint64_t{5555} << 16, 0x0100007f, 0};

struct Pool : unit::TestSegment {
  explicit Pool(uint32_t capacity = kMinCapacity)
      : TestSegment(capacity),
        board(mapping, "echo", 7, 4000, 8, kNow),
        reader(UniqueFd(dup(fds.read_only.get()))) {}

  uint32_t fork_one(Nanoseconds now = kNow) {
    uint32_t slot = board.prepare(now);
    board.forked(slot, static_cast<pid_t>(10'000 + slot));
    return slot;
  }
  Snapshot read(Nanoseconds now = kNow) const {
    auto snapshot = reader.read(now);
    CU_ASSERT_FATAL(snapshot.has_value());
    return *snapshot;
  }
  bool counts_are(uint32_t starting, uint32_t idle, uint32_t busy, uint32_t retiring) const {
    Counts c = board.counts();
    return c.starting == starting && c.idle == idle && c.busy == busy && c.retiring == retiring;
  }

  Scoreboard board;
  SegmentReader reader;
};

// --- the supervisor's side -----------------------------------------------------------------------

void slots_are_taken_from_below() {
  Pool pool;
  for (uint32_t i = 0; i < 130; ++i) CU_ASSERT_EQUAL(pool.fork_one(), i);
  CU_ASSERT_EQUAL(pool.board.alive(), 130);
  CU_ASSERT_EQUAL(pool.segment().published.scan_words.load(), 3);
  pool.board.fold(5, Ending::kRetired, Outcome::kFailed, kNow);
  pool.board.fold(70, Ending::kRetired, Outcome::kFailed, kNow);
  CU_ASSERT_FALSE(pool.board.is_alive(5));
  CU_ASSERT_EQUAL(pool.fork_one(), 5);
  CU_ASSERT_EQUAL(pool.fork_one(), 70);
  for (uint32_t i = 64; i < 130; ++i) pool.board.fold(i, Ending::kRetired, Outcome::kFailed, kNow);
  CU_ASSERT_EQUAL(pool.segment().published.scan_words.load(), 1);
  uint32_t refused = pool.board.prepare(kNow);
  CU_ASSERT_EQUAL(refused, 64);
  pool.board.fork_failed(refused);
  CU_ASSERT_EQUAL(pool.board.alive(), 64);
  CU_ASSERT_EQUAL(pool.segment().published.scan_words.load(), 1);
  CU_ASSERT_EQUAL(pool.read().figures.forked, 132);
}

// Forked and counted; forked, and it has become its program; made ready.
void a_supervisor_killed_in_a_row_of_forks() {
  Pool pool;
  pool.fork_one();
  const uint32_t forked = pool.board.prepare(kNow);
  pool.board.prepare(kNow);
  Seat seat(pool.mapping, forked);
  seat.claim(501);
  seat.started(kNow);
  seat.begin(kNow, kPeer);
  PoolInfo::Generation info;
  info.ended_well = {501};
  const Counters figures = final_figures(pool.read(), info);
  CU_ASSERT(figures.served == 1 && figures.failed == 0);
  CU_ASSERT(figures.recycled == 1 && figures.retired == 1 && figures.crashed == 0);
  CU_ASSERT_EQUAL(figures.forked, 2);
}

void every_slot_can_be_taken() {
  Pool pool(64);
  for (uint32_t i = 0; i < 64; ++i) CU_ASSERT_EQUAL(pool.fork_one(), i);
  CU_ASSERT_EQUAL(pool.board.alive(), pool.board.capacity());
  CU_ASSERT(pool.counts_are(64, 0, 0, 0));
}

void counts_each_state() {
  Pool pool;
  for (int i = 0; i < 5; ++i) pool.fork_one();
  CU_ASSERT(pool.counts_are(5, 0, 0, 0));
  Seat a(pool.mapping, 0), b(pool.mapping, 1), c(pool.mapping, 2), d(pool.mapping, 3);
  for (Seat* seat : {&a, &b, &c, &d}) seat->started(kNow);
  CU_ASSERT(pool.counts_are(1, 4, 0, 0));
  b.begin(kNow, kPeer);
  c.begin(kNow, kPeer);
  d.retire(kNow);
  CU_ASSERT(pool.counts_are(1, 1, 2, 1));
  CU_ASSERT_TRUE(pool.board.is_idle(0));
  CU_ASSERT_FALSE(pool.board.is_idle(1));
  d.begin(kNow, kPeer);
  CU_ASSERT(pool.counts_are(1, 1, 3, 0));
  // On its way from idle to busy both bits are set: it is one worker, not two.
  pool.mapping.bits(0).idle.fetch_or(2);
  CU_ASSERT(pool.counts_are(1, 2, 2, 0));
}

void bits_of_the_dead_do_not_count() {
  Pool pool;
  pool.fork_one();
  for (uint32_t w = 0; w < pool.board.capacity() / kSlotsPerWord; ++w) {
    pool.mapping.bits(w).idle.store(~uint64_t{0});
    pool.mapping.bits(w).busy.store(~uint64_t{0});
  }
  CU_ASSERT(pool.counts_are(0, 1, 0, 0));
  CU_ASSERT_EQUAL(pool.board.idle_longest(1000).size(), 1);
  CU_ASSERT_FALSE(pool.board.is_idle(1));
  pool.board.fold(0, Ending::kCrashed, Outcome::kFailed, kNow);
  CU_ASSERT(pool.counts_are(0, 0, 0, 0));
  CU_ASSERT_EQUAL(pool.mapping.bits(0).idle.load(), ~uint64_t{1});
  CU_ASSERT_EQUAL(pool.mapping.bits(0).busy.load(), ~uint64_t{1});
}

void idle_longest_first() {
  Pool pool;
  static constexpr Nanoseconds kSince[] = {50, 20, 40, 10, 30};
  for (Nanoseconds since : kSince) {
    Seat seat(pool.mapping, pool.fork_one());
    seat.started(kNow + since);
  }
  CU_ASSERT(pool.board.idle_longest(0).empty());
  CU_ASSERT((pool.board.idle_longest(3) == std::vector<uint32_t>{3, 1, 4}));
  CU_ASSERT((pool.board.idle_longest(99) == std::vector<uint32_t>{3, 1, 4, 2, 0}));
}

// Who is busy all through the change of windows is in the new one's peak, at whatever moment it began.
void no_peak_is_lost() {
  struct Stage {
    Word turn, answer;
  };
  Pool pool;
  unit::Shared<Stage> stage;
  // The worker's slot is counted first, and many more after it: there is time to become busy in between.
  const uint32_t slot = pool.fork_one();
  while (pool.board.alive() < pool.board.capacity()) pool.fork_one();
  constexpr uint32_t kTurns = 5'000;
  Child worker([&] {
    Seat seat(pool.mapping, slot);
    seat.started(kNow);
    for (uint32_t turn = 1; turn <= kTurns; ++turn) {
      if (!unit::eventually([&] { return stage->turn.load() == turn; })) return false;
      seat.begin(kNow, kPeer);
      stage->answer.store(2 * turn - 1);
      if (!unit::eventually([&] { return stage->turn.load() == 0; })) return false;
      seat.done(kNow, Outcome::kServed);
      seat.idle(kNow);
      stage->answer.store(2 * turn);
    }
    return true;
  });
  uint32_t lost = 0;
  for (uint32_t turn = 1; turn <= kTurns; ++turn) {
    stage->turn.store(turn);
    bool answered = unit::eventually([&] {
      pool.board.take_peak();
      return stage->answer.load() == 2 * turn - 1;
    });
    lost += pool.board.peak() == 0;
    stage->turn.store(0);
    answered &= unit::eventually([&] { return stage->answer.load() == 2 * turn; });
    CU_ASSERT_TRUE_FATAL(answered);
  }
  CU_ASSERT_EQUAL(lost, 0);
  CU_ASSERT_TRUE(worker.succeeded());
}

void folds_into_totals() {
  Pool pool;
  static constexpr Ending kEndings[] = {Ending::kRetired, Ending::kRecycled, Ending::kCrashed,
                                        Ending::kTimedOut};
  for (Ending ending : kEndings) {
    uint32_t slot = pool.fork_one();
    Seat seat(pool.mapping, slot);
    seat.started(kNow);
    for (Outcome outcome :
         {Outcome::kServed, Outcome::kFailed, Outcome::kServed, Outcome::kAborted}) {
      seat.begin(kNow, kPeer);
      seat.done(kNow + 10 * kMicrosecond, outcome);
    }
    pool.board.fold(slot, ending, Outcome::kFailed, kNow + kSecond);
  }
  Counters f = pool.read().figures;
  CU_ASSERT_EQUAL(f.served, 8);
  CU_ASSERT_EQUAL(f.failed, 4);
  CU_ASSERT_EQUAL(f.aborted, 4);
  CU_ASSERT(f.retired == 1 && f.recycled == 1 && f.crashed == 1 && f.timed_out == 1);
  CU_ASSERT_EQUAL(f.forked, 4);
  CU_ASSERT_EQUAL(f.busy_ns, 160 * kMicrosecond);
  CU_ASSERT_EQUAL(f.worker_ns, 4 * kSecond);
  CU_ASSERT_EQUAL(f.histogram[10], 16);
  CU_ASSERT_EQUAL(f.max_us, 10);
}

void a_connection_in_hand() {
  for (Outcome outcome : {Outcome::kServed, Outcome::kFailed, Outcome::kAborted}) {
    Pool pool;
    uint32_t slot = pool.fork_one();
    Seat seat(pool.mapping, slot);
    seat.started(kNow);
    seat.begin(kNow, kPeer);
    Scoreboard::Last last = pool.board.last_words(slot);
    CU_ASSERT(last.active && last.begun == 1 && last.state == WorkerState::kBusy);
    CU_ASSERT(unit::same_text(peer_text(last.peer), "127.0.0.1:5555"));
    CU_ASSERT_EQUAL(pool.read(kNow).active, 1);
    pool.board.fold(slot, Ending::kRecycled, outcome, kNow + kMillisecond);
    Snapshot s = pool.read();
    CU_ASSERT_EQUAL(s.figures.served, outcome == Outcome::kServed);
    CU_ASSERT_EQUAL(s.figures.failed, outcome == Outcome::kFailed);
    CU_ASSERT_EQUAL(s.figures.aborted, outcome == Outcome::kAborted);
    CU_ASSERT_EQUAL(s.active, 0);
    CU_ASSERT_EQUAL(s.figures.busy_ns, kMillisecond);
    CU_ASSERT_EQUAL(s.figures.histogram[histogram_bucket(1000)], 1);
    CU_ASSERT_TRUE(s.workers.empty());
  }
}

// Killed between its bucket and its count: it failed, and its time is in the histogram once.
void measured_and_not_counted() {
  Pool pool;
  uint32_t slot = pool.fork_one();
  Seat seat(pool.mapping, slot);
  seat.started(kNow);
  seat.begin(kNow, kPeer);
  pool.mapping.slot(slot).histogram[10].fetch_add(1);
  pool.board.fold(slot, Ending::kCrashed, Outcome::kFailed, kNow + kMillisecond);
  Counters f = pool.read().figures;
  CU_ASSERT_EQUAL(f.failed, 1);
  CU_ASSERT_EQUAL(f.histogram[10], 1);
  CU_ASSERT_EQUAL(f.histogram[histogram_bucket(1000)], 0);
}

// What is said of a program's connection counts for that one: not for the next worker's in the same slot, however late.
void whose_client_has_ended_it() {
  Pool pool;
  const uint32_t slot = pool.fork_one();
  const auto pid = static_cast<pid_t>(pool.mapping.slot(slot).pid.load());
  Seat seat(pool.mapping, slot);
  seat.started(kNow);
  pool.board.note_client_ended(slot, pid, 1);
  CU_ASSERT_FALSE(pool.board.last_words(slot).client_ended);  // it has none in hand
  seat.begin(kNow, kPeer);
  CU_ASSERT_TRUE(pool.board.last_words(slot).client_ended);
  pool.board.note_client_ended(slot, pid, 2);
  CU_ASSERT_FALSE(pool.board.last_words(slot).client_ended);
  pool.board.note_client_ended(slot, pid + 1, 1);
  CU_ASSERT_FALSE(pool.board.last_words(slot).client_ended);
  pool.board.note_client_ended(slot, pid, 1);
  pool.board.fold(slot, Ending::kRecycled, Outcome::kAborted, kNow);

  CU_ASSERT_EQUAL(pool.board.prepare(kNow), slot);
  pool.board.forked(slot, pid + 1);
  Seat next(pool.mapping, slot);
  next.started(kNow);
  next.begin(kNow, kPeer);
  CU_ASSERT_FALSE(pool.board.last_words(slot).client_ended);
  pool.board.note_client_ended(slot, pid, 1);  // late
  CU_ASSERT_FALSE(pool.board.last_words(slot).client_ended);
}

// The next worker in a slot begins at nothing.
void a_folded_slot_is_clean() {
  Pool pool;
  Seat seat(pool.mapping, pool.fork_one());
  seat.started(kNow);
  seat.begin(kNow, kPeer);
  seat.done(kNow + kSecond, Outcome::kServed);
  seat.ask_for_recycling();
  pool.mapping.slot(0).leave.store(1);
  pool.mapping.slot(0).end.store(1);
  pool.board.fold(0, Ending::kRecycled, Outcome::kFailed, kNow);
  CU_ASSERT_EQUAL(pool.fork_one(kNow + 9), 0);
  const Slot& s = pool.mapping.slot(0);
  CU_ASSERT(s.served == 0 && s.failed == 0 && s.aborted == 0 && s.begun == 0 && s.busy_ns == 0 &&
            s.max_us == 0);
  CU_ASSERT(s.recycle == 0 && s.leave == 0 && s.end == 0 && s.peer[0] == 0);
  CU_ASSERT(s.forked_at == kNow + 9 && s.since == kNow + 9 && s.generation == 7);
  for (const Word& bucket : s.histogram) CU_ASSERT_EQUAL(bucket.load(), 0);
  CU_ASSERT_FALSE(pool.board.last_words(0).active);
}

void time_at_max() {
  Pool pool;
  pool.board.set_at_max(true, kNow);
  pool.board.set_at_max(true, kNow + 5);
  CU_ASSERT_EQUAL(pool.read(kNow + 10).figures.at_max_ns, 10);
  pool.board.set_at_max(false, kNow + 20);
  pool.board.set_at_max(false, kNow + 30);
  CU_ASSERT_EQUAL(pool.read(kNow + 99).figures.at_max_ns, 20);
  pool.board.set_at_max(true, kNow + 100);
  CU_ASSERT_EQUAL(pool.read(kNow + 101).figures.at_max_ns, 21);
}

void decisions_wrap_around() {
  Pool pool;
  CU_ASSERT_TRUE(pool.reader.decisions().empty());
  const Limits limits = {1, 2, 3, 4, kSecond};
  for (uint32_t n = 1; n <= kDecisions + 10; ++n)
    pool.board.record(Action::kGrow, Reason::kDemand, n, {10, 20, 30, 0}, 40, 50, limits, 2,
                      kNow + n);
  auto decisions = pool.reader.decisions();
  CU_ASSERT_EQUAL_FATAL(decisions.size(), kDecisions);
  for (uint32_t i = 0; i < kDecisions; ++i) {
    CU_ASSERT_EQUAL(decisions[i].number, i + 11);
    CU_ASSERT_EQUAL(decisions[i].count, i + 11);
    CU_ASSERT_EQUAL(decisions[i].at, kNow + i + 11);
  }
  const DecisionView& d = decisions.back();
  CU_ASSERT(d.action == Action::kGrow && d.reason == Reason::kDemand && d.patience == 2);
  CU_ASSERT(d.starting == 10 && d.idle == 20 && d.busy == 30 && d.queued == 40 && d.peak == 50);
  CU_ASSERT(d.limits.min == 1 && d.limits.max == 2 && d.limits.min_spare == 3 &&
            d.limits.max_spare == 4);
}

// --- the reader's side ---------------------------------------------------------------------------

void a_snapshot() {
  Pool pool;
  for (int i = 0; i < 3; ++i) pool.fork_one();
  Seat busy(pool.mapping, 1), idle(pool.mapping, 2);
  pool.mapping.slot(0).starting_step.store(static_cast<uint32_t>(StartingStep::kWaitsForTicket));
  busy.started(kNow);
  idle.started(kNow + 1);
  busy.begin(kNow + 2, kPeer);
  pool.board.set_queued(17);
  Snapshot s = pool.read(kNow + 10);
  CU_ASSERT(s.generation == 7 && s.capacity == kMinCapacity && s.queued == 17 && s.peak_busy == 1);
  CU_ASSERT(s.starting == 1 && s.idle == 1 && s.busy == 1 && s.retiring == 0 && s.active == 1);
  CU_ASSERT_EQUAL_FATAL(s.workers.size(), 3);
  const WorkerView& w = s.workers[1];
  CU_ASSERT(w.slot == 1 && w.pid == 10'001 && w.generation == 7 && w.state == WorkerState::kBusy);
  CU_ASSERT(w.since == kNow + 2 && w.forked_at == kNow && w.active && w.busy_ns == 8);
  CU_ASSERT(unit::same_text(peer_text(w.peer), "127.0.0.1:5555"));
  CU_ASSERT(s.workers[0].waits_for_start_ticket && !w.waits_for_start_ticket);
  CU_ASSERT_EQUAL(s.figures.busy_ns, 8);
  CU_ASSERT_EQUAL(s.figures.worker_ns, 30);
}

struct Traffic {
  Word over;
};

// Serves as fast as it can, dies in between with a connection in hand; the supervisor reaps and folds.
bool serve_until_over(Pool& pool, uint32_t slot, Traffic& traffic, uint32_t lives) {
  Seat seat(pool.mapping, slot);
  seat.started(monotonic_now());
  for (uint32_t n = 0; !traffic.over.load() && n < lives; ++n) {
    seat.begin(monotonic_now(), kPeer);
    constexpr Outcome kOutcomes[] = {Outcome::kServed, Outcome::kFailed, Outcome::kAborted};
    seat.done(monotonic_now(), kOutcomes[n % 3]);
    if (n % 5 == 0) seat.idle(monotonic_now());
  }
  seat.begin(monotonic_now(), kPeer);
  return true;
}

// Every snapshot is a state that the pool was in: no sum ever falls, each connection is in one place.
bool read_until_over(const Pool& pool, Traffic& traffic) {
  Snapshot last = *pool.reader.read(monotonic_now());
  for (uint32_t read = 0; !traffic.over.load() || read < 100; ++read) {
    auto now = pool.reader.read(monotonic_now());
    if (!now) return false;
    const Counters &f = now->figures, &l = last.figures;
    if (f.served < l.served || f.failed < l.failed || f.aborted < l.aborted) return false;
    const auto ended = [](const Counters& of) { return of.served + of.failed + of.aborted; };
    if (ended(f) + now->active < ended(l) + last.active || f.forked < l.forked) return false;
    if (f.crashed < l.crashed || f.max_us < l.max_us) return false;
    for (uint32_t b = 0; b < kHistogramBuckets; ++b)
      if (f.histogram[b] < l.histogram[b]) return false;
    if (f.forked < f.crashed) return false;
    last = std::move(*now);
  }
  return true;
}

void read_while_all_write() {
  Pool pool(128);
  unit::Shared<Traffic> traffic;
  Child reader([&] { return read_until_over(pool, *traffic); });
  constexpr uint32_t kWorkers = 6;
  std::deque<std::pair<uint32_t, Child>> workers;
  uint64_t folded = 0;
  for (uint32_t death = 0; death < 300; ++death) {
    while (workers.size() < kWorkers) {
      uint32_t slot = pool.fork_one(monotonic_now());
      workers.emplace_back(slot, Child([&, slot] {
                             return serve_until_over(pool, slot, *traffic, 200 + 50 * slot);
                           }));
    }
    auto& [slot, oldest] = workers.front();
    CU_ASSERT_TRUE_FATAL(oldest.ended());
    Scoreboard::Last last = pool.board.last_words(slot);
    CU_ASSERT_TRUE(last.active);
    folded += last.begun;
    pool.board.fold(slot, Ending::kCrashed, Outcome::kFailed, monotonic_now());
    workers.pop_front();
  }
  traffic->over.store(1);
  CU_ASSERT_TRUE(reader.succeeded());
  for (auto& [slot, worker] : workers) {
    CU_ASSERT_TRUE(worker.ended());
    folded += pool.board.last_words(slot).begun;
    pool.board.fold(slot, Ending::kCrashed, Outcome::kFailed, monotonic_now());
  }
  Counters f = pool.read().figures;
  CU_ASSERT_EQUAL(f.served + f.failed + f.aborted, folded);
  CU_ASSERT_EQUAL(f.crashed, f.forked);
}

// The bytes of a segment as they are now, for a reader of their own: a supervisor that died here.
SegmentReader frozen(const Pool& pool) {
  std::string all(segment_size(pool.mapping.capacity()), '\0');
  CU_ASSERT_EQUAL_FATAL(pread(pool.reader.fd(), all.data(), all.size(), 0),
                        static_cast<ssize_t>(all.size()));
  SegmentFds copy = create_segment(pool.mapping.capacity());
  CU_ASSERT_EQUAL_FATAL(pwrite(copy.read_write.get(), all.data(), all.size(), 0),
                        static_cast<ssize_t>(all.size()));
  return SegmentReader(std::move(copy.read_only));
}

// A supervisor that died while it folded, before the slot was cleared: its worker is counted once.
void died_while_folding() {
  Pool pool;
  uint32_t slot = pool.fork_one();
  Seat seat(pool.mapping, slot);
  seat.started(kNow);
  seat.begin(kNow, kPeer);
  seat.done(kNow, Outcome::kServed);
  std::string worker(sizeof(Slot), '\0');
  std::memcpy(worker.data(), static_cast<void*>(&pool.board.slot(slot)), sizeof(Slot));
  pool.board.fold(slot, Ending::kRetired, Outcome::kFailed, kNow);
  CU_ASSERT_EQUAL(pool.read().figures.served, 1);

  // As after step 2 of Gone, and, with the edition before, as before it.
  std::memcpy(static_cast<void*>(&pool.board.slot(slot)), worker.data(), sizeof(Slot));
  pool.segment().published.scan_words.store(1);
  Long& edition = pool.segment().gone.edition;
  const uint64_t after = edition.load();
  edition.store(after | (slot + 1));
  Snapshot s = *frozen(pool).read(kNow);
  CU_ASSERT(s.figures.served == 1 && s.figures.retired == 1 && s.workers.empty());
  edition.store(edition_of(edition_number(after) - 1, 0));
  s = *frozen(pool).read(kNow);
  CU_ASSERT(s.figures.served == 1 && s.figures.retired == 0 && s.workers.size() == 1);
  CU_ASSERT_EQUAL(s.figures.forked, 1);
}

void no_segment() {
  Pool pool;
  pool.fork_one();
  Header& h = pool.segment().header;
  static const struct {
    const char* what;
    void (*spoil)(Header&);
  } kRows[] = {
      {"no magic", [](Header& x) { x.magic = 0; }},
      {"another version", [](Header& x) { ++x.version; }},
      {"no capacity", [](Header& x) { x.capacity = 0; }},
      {"an odd capacity", [](Header& x) { x.capacity = 1000; }},
      {"too much capacity", [](Header& x) { x.capacity = 2 * kMaxCapacity; }},
  };
  const Header good = h;
  for (const auto& row : kRows) {
    row.spoil(h);
    if (pool.reader.read(kNow)) std::printf("\n  %s\n", row.what);
    CU_ASSERT_FALSE(pool.reader.read(kNow).has_value());
    pool.reader.decisions();
    h = good;
  }
  // More than the file has: a short read.
  h.capacity = kMaxCapacity;
  pool.segment().published.scan_words.store(~0u);
  CU_ASSERT_FALSE(pool.reader.read(kNow).has_value());
  CU_ASSERT_TRUE(pool.reader.decisions().empty());
  h = good;
  CU_ASSERT_EQUAL(pool.read().workers.size(),
                  1);  // whatever scan_words says, no more than there are
}

void a_truncated_segment() {
  Pool pool;
  pool.fork_one();
  for (off_t size : {off_t{0}, off_t{1}, off_t{127}, off_t{3199}, off_t{3200}, off_t{4000}}) {
    // (One of ours cannot be.)
    UniqueFd file = make_memory_file("truncated");
    std::string all(segment_size(kMinCapacity), '\0');
    CU_ASSERT_EQUAL_FATAL(pread(pool.reader.fd(), all.data(), all.size(), 0),
                          static_cast<ssize_t>(all.size()));
    CU_ASSERT_FATAL(pwrite(file.get(), all.data(), all.size(), 0) > 0);
    SegmentReader reader(UniqueFd(dup(file.get())));
    CU_ASSERT_TRUE(reader.read(kNow).has_value());
    CU_ASSERT_EQUAL_FATAL(ftruncate(file.get(), size), 0);
    CU_ASSERT_FALSE(reader.read(kNow).has_value());
    CU_ASSERT_TRUE(reader.decisions().empty());
  }
  CU_ASSERT_FALSE(SegmentReader(UniqueFd()).read(kNow).has_value());
  SegmentFds ours = create_segment(kMinCapacity);
  CU_ASSERT(ftruncate(ours.read_write.get(), 0) < 0 && errno == EPERM);
  CU_ASSERT(ftruncate(ours.read_write.get(), 1 << 30) < 0 && errno == EPERM);
}

// --- a hostile worker ----------------------------------------------------------------------------

class Scribbler {
 public:
  explicit Scribbler(const unit::TestSegment& s)
      : bytes_(reinterpret_cast<char*>(&s.segment())), size_(segment_size(s.mapping.capacity())) {}

  // Random words, zeros and ones over all of it; now and then the header stays as it should be.
  void scribble(std::mt19937_64& dice) {
    const bool spare_header = dice() % 2;
    const uint64_t style = dice() % 4;
    for (size_t at = spare_header ? sizeof(Header) : 0; at + 8 <= size_; at += 8) {
      uint64_t word = style == 0 ? dice() : style == 1 ? ~uint64_t{0} : dice() % 3 ? 0 : dice() % 7;
      __builtin_memcpy(bytes_ + at, &word, 8);
    }
  }

 private:
  char* bytes_;
  size_t size_;
};

// Every call of the supervisor's and of control's, in the order of a life.
bool all_calls_come_back(Pool& pool) {
#ifdef PREFORKD_DEBUG
  // The debug build's own check lies in that memory, and would rightly call this two writers.
  for (uint32_t i = 0; i < pool.board.capacity(); ++i) pool.mapping.slot(i).writer.store(0);
#endif
  Scoreboard& board = pool.board;
  const uint32_t alive_before = board.alive();
  uint32_t slot = board.prepare(kNow);
  board.forked(slot, 1);
  uint32_t refused = board.prepare(kNow);
  board.fork_failed(refused);
  Counts c = board.counts();
  if (c.starting + c.idle + c.busy + c.retiring != board.alive()) return false;
  for (uint32_t i : board.idle_longest(~0u))
    if (!board.is_alive(i) || i >= board.capacity()) return false;
  board.take_peak();
  board.peak();
  peer_text(board.last_words(slot).peer);
  board.set_queued(3);
  board.set_at_max(true, kNow);
  board.set_at_max(false, kNow + 1);
  board.record(Action::kGrow, Reason::kDemand, 1, c, 1, 1, Limits{}, 1, kNow);
  ring(board.segment().doorbell);
  sleep_until_rung(board.segment().doorbell, ~rings(board.segment().doorbell), kNow);
  if (take_back_tickets(board.segment().tickets.retire, 10) > 10) return false;
  board.fold(slot, Ending::kCrashed, slot % 2 ? Outcome::kServed : Outcome::kFailed, kNow);
  if (board.alive() != alive_before) return false;
  if (auto s = pool.reader.read(kNow)) {
    if (s->workers.size() > pool.board.capacity()) return false;
    for (const WorkerView& w : s->workers)
      if (peer_text(w.peer).size() > 100 || !worker_state_name(w.state)[0]) return false;
  }
  for (const DecisionView& d : pool.reader.decisions())
    if (!action_name(d.action)[0] || !reason_name(d.reason)[0]) return false;
  return pool.reader.decisions().size() <= kDecisions;
}

void nonsense_over_all_of_it() {
  Child supervisor_and_control([] {
    Pool pool(128);
    std::mt19937_64 dice(3);
    for (int i = 0; i < 70; ++i) pool.fork_one();
    Scribbler scribbler(pool);
    for (int round = 0; round < 150; ++round) {
      scribbler.scribble(dice);
      if (!all_calls_come_back(pool)) return false;
    }
    return true;
  });
  CU_ASSERT_TRUE(supervisor_and_control.succeeded());
}

#ifndef PREFORKD_DEBUG
// The same while another process goes on scribbling.
void nonsense_meanwhile() {
  Child supervisor_and_control([] {
    Pool pool(128);
    for (int i = 0; i < 70; ++i) pool.fork_one();
    Child hostile([&] {
      std::mt19937_64 dice(4);
      for (Scribbler scribbler(pool);;) scribbler.scribble(dice);
      return false;
    });
    for (int round = 0; round < 150; ++round)
      if (!all_calls_come_back(pool)) return false;
    return true;
  });
  CU_ASSERT_TRUE(supervisor_and_control.succeeded());
}
#endif

void peers() {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(65535);
  v4.sin_addr.s_addr = htonl(0x7f000001);
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(80);
  v6.sin6_addr = in6addr_loopback;
  sockaddr other{};
  CU_ASSERT(
      unit::same_text(peer_text(pack_peer(reinterpret_cast<sockaddr*>(&v4))), "127.0.0.1:65535"));
  CU_ASSERT(unit::same_text(peer_text(pack_peer(reinterpret_cast<sockaddr*>(&v6))), "[::1]:80"));
  CU_ASSERT(unit::same_text(peer_text(pack_unix_peer(~0u, 1000)), "unix:pid=4294967295,uid=1000"));
  CU_ASSERT(unit::same_text(peer_text(pack_peer(&other)), ""));
  CU_ASSERT(unit::same_text(peer_text({}), ""));
}

#ifdef PREFORKD_DEBUG
void two_writers_abort() {
  Pool pool;
  Child both([&] {
    SlotWriter first(pool.mapping.slot(0));
    SlotWriter second(pool.mapping.slot(0));
    return true;
  });
  CU_ASSERT_FALSE(both.succeeded());
  Child one([&] {
    { SlotWriter first(pool.mapping.slot(1)); }
    SlotWriter second(pool.mapping.slot(1));
    return true;
  });
  CU_ASSERT_TRUE(one.succeeded());
}
#endif

}  // namespace

void add_scoreboard_tests() {
  static const unit::Test kTests[] = {
      {"slots are taken from below", slots_are_taken_from_below},
      {"a supervisor killed in a row of forks", a_supervisor_killed_in_a_row_of_forks},
      {"every slot can be taken", every_slot_can_be_taken},
      {"counts each state", counts_each_state},
      {"bits of the dead do not count", bits_of_the_dead_do_not_count},
      {"idle longest first", idle_longest_first},
      {"no peak is lost between two windows", no_peak_is_lost},
      {"folds into totals", folds_into_totals},
      {"a connection in hand counts as what it is said to be", a_connection_in_hand},
      {"whose client has ended it", whose_client_has_ended_it},
      {"measured and not counted", measured_and_not_counted},
      {"a folded slot is clean", a_folded_slot_is_clean},
      {"time at max", time_at_max},
      {"the ring of decisions wraps around", decisions_wrap_around},
      {"a snapshot", a_snapshot},
      {"read while all write", read_while_all_write},
      {"a supervisor that died while it folded", died_while_folding},
      {"what is no segment is not read", no_segment},
      {"a truncated segment is not read", a_truncated_segment},
      {"nonsense written over all of it", nonsense_over_all_of_it},
#ifdef PREFORKD_DEBUG
      {"two writers of one slot abort", two_writers_abort},
#else
      {"nonsense written meanwhile", nonsense_meanwhile},
#endif
      {"peers as words and as text", peers},
  };
  unit::add_suite("scoreboard", kTests);
}
