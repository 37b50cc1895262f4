// The memory that a pool's processes share, used by threads over one mapping: four workers (worker/seat) that
// live one life after the other, their supervisor (shm/scoreboard, doorbell, tickets), and control, which reads
// all the while (shm/reader, control/tick_bell). What the other tests do with processes, ThreadSanitizer cannot
// see into; `make tsan` has it watch this one. Without it the figures must be exact at the end.
//
// What stands for the kernel's part: a thread's Desk for fork, waitpid and the nudge; a ring for SIGCHLD.
#include <sys/eventfd.h>

#include <array>
#include <thread>
#include <vector>

#include "control/tick_bell.h"
#include "shm/doorbell.h"
#include "shm/reader.h"
#include "shm/scoreboard.h"
#include "shm/tickets.h"
#include "tests/unit/unit_test.h"
#include "worker/seat.h"

using namespace preforkd;
using shm::Ending;
using shm::SegmentReader;
using shm::Slot;

namespace {

constexpr uint32_t kWorkers = 4;
constexpr uint32_t kLives = 1000;       // of all of them together
constexpr uint32_t kRecycleAfter = 50;  // connections
constexpr Nanoseconds kBegan = 5000 * kSecond;
constexpr shm::PeerWords kPeer = {2, 3, 4};

struct Served {
  uint64_t ended[3] = {}, busy_ns = 0;
  uint64_t of(Outcome outcome) const { return ended[static_cast<size_t>(outcome)]; }
  uint64_t lives_retired = 0, lives_recycled = 0, lives_ended = 0;
};

constexpr uint32_t kNoMore = ~0u;

// Between the supervisor and one worker. `life` counts up: odd, it lives in `slot`; even, it is dead.
struct Desk {
  alignas(shm::kLine) std::atomic<uint32_t> life{0};
  std::atomic<bool> nudged{false};
  uint32_t slot = 0;      // the supervisor's, while it is dead
  Ending ending{};        // the worker's, while it lives
  uint64_t ended_in = 0;  // ... the connection that it was ordered to end
  Served served;          // ... over all its lives
};

struct Pool : unit::TestSegment {
  Pool() : board(mapping, "echo", 1, getpid(), 2, kBegan) {}
  shm::Scoreboard board;
  std::array<Desk, kWorkers> desks;
  std::atomic<bool> watched{false}, over{false};
};

// --- a worker ------------------------------------------------------------------------------------

class WorkerThread {
 public:
  WorkerThread(Pool& pool, uint32_t number) : pool_(pool), desk_(pool.desks[number]) {}

  void run() {
    for (uint32_t life = 1;; life += 2) {
      desk_.life.wait(life - 1);
      if (desk_.life.load() == kNoMore) return;
      live();
      desk_.life.store(life + 1);
      desk_.life.notify_one();
      shm::ring(pool_.segment().doorbell);
    }
  }

 private:
  void live() {
    Seat seat(pool_.mapping, desk_.slot);
    while (!seat.wait_to_start()) {
    }
    seat.started(now_);
    desk_.ending = Ending::kRetired;
    while (is_to_stay(seat)) {
      serve(seat);
      if (seat.begun() == kRecycleAfter) seat.ask_for_recycling(), desk_.ending = Ending::kRecycled;
      if (seat.must_end(seat.begun())) {
        desk_.ending = Ending::kTimedOut;
        desk_.ended_in = seat.begun();
        ++desk_.served.lives_ended;
        return seat.retire(now_);
      }
      if (clock_++ % 3) seat.idle(now_), sched_yield();
    }
    ++(desk_.ending == Ending::kRecycled ? desk_.served.lives_recycled
                                         : desk_.served.lives_retired);
  }

  bool is_to_stay(Seat& seat) {
    const bool leaves = seat.must_leave();
    const bool is_surplus =
        !leaves && !seat.is_busy() && desk_.nudged.exchange(false) && seat.may_retire();
    if (!leaves && !is_surplus) return true;
    seat.retire(now_);
    return is_surplus && clock_++ % 4 == 0;  // the last accept brought a connection
  }

  // Eight of them in a second, each of up to 15 µs; each eleventh fails, each 13th is aborted.
  void serve(Seat& seat) {
    const Nanoseconds took = clock_++ % 16 * kMicrosecond;
    const Outcome outcome = clock_ % 11 == 0   ? Outcome::kFailed
                            : clock_ % 13 == 0 ? Outcome::kAborted
                                               : Outcome::kServed;
    seat.begin(now_, kPeer);
    seat.done(now_ + took, outcome);
    now_ += kSecond / 8;
    ++desk_.served.ended[static_cast<size_t>(outcome)];
    desk_.served.busy_ns += took;
  }

  Pool& pool_;
  Desk& desk_;
  Nanoseconds now_ = kBegan;
  uint32_t clock_ = 0;  // instead of chance
};

// --- the supervisor ------------------------------------------------------------------------------

class SupervisorThread {
 public:
  explicit SupervisorThread(Pool& pool) : pool_(pool), board_(pool.board) {}

  // Until all lives were lived. False: nobody woke it though there was something to do.
  bool run() {
    bool heard = true;
    while (heard && !all_is_over()) {
      const uint32_t seen = shm::rings(segment_.doorbell);
      segment_.shared.watch.store(1);
      reap();
      fork();
      segment_.published.low_water.store(rounds_ % 3);
      segment_.published.leaving.store(lives_ == kLives ? shm::kDrain : shm::kStay);
      let_go();
      order_an_end();
      keep_books();
      if (all_is_over()) break;
      const Nanoseconds deadline = monotonic_now() + unit::kPatience;
      shm::sleep_until_rung(segment_.doorbell, seen, deadline);
      heard = monotonic_now() < deadline;
    }
    dismiss();
    return heard;
  }
  uint64_t orders() const { return orders_stood_; }

 private:
  struct Private {
    bool there = false, starting = false, told = false;
    uint32_t life = 0;
    uint64_t ordered = 0;
  };

  bool all_is_over() const { return lives_ == kLives && board_.alive() == 0; }

  void reap() {
    for (uint32_t i = 0; i < kWorkers; ++i) {
      Desk& desk = pool_.desks[i];
      Private& mine = private_[i];
      if (!mine.there) continue;
      const bool dead = desk.life.load() != mine.life;
      if (mine.starting &&
          (dead || board_.is_idle(desk.slot) || board_.slot(desk.slot).begun.load())) {
        mine.starting = false;
        shm::post_tickets(segment_.tickets.start, 1);
      }
      if (dead) bury(desk, mine);
    }
  }

  void bury(Desk& desk, Private& mine) {
    const auto last = board_.last_words(desk.slot);
    CU_ASSERT_FALSE(last.active);
    CU_ASSERT(last.state == WorkerState::kRetiring);
    // An order that stands ends the worker with that connection; one that was taken back may.
    if (mine.ordered) CU_ASSERT_EQUAL(last.begun, mine.ordered);
    if (mine.ordered) CU_ASSERT(desk.ending == Ending::kTimedOut && desk.ended_in == mine.ordered);
    board_.fold(desk.slot, desk.ending, Outcome::kFailed, kBegan);
    mine = {.life = mine.life + 1};
  }

  void fork() {
    segment_.published.ring_on.store(shm::kRingOnStarted);
    for (uint32_t i = 0; i < kWorkers && lives_ < kLives; ++i) {
      Private& mine = private_[i];
      if (mine.there) continue;
      ++lives_;
      Desk& desk = pool_.desks[i];
      desk.slot = board_.prepare(kBegan);
      board_.forked(desk.slot, getpid());
      mine.there = mine.starting = true;
      desk.life.store(++mine.life);
      desk.life.notify_one();
    }
  }

  // As Workforce does it: tickets first, then the nudges; and who asked to be replaced is told to leave.
  void let_go() {
    shm::take_back_tickets(segment_.tickets.retire, kWorkers);
    const uint32_t count = lives_ % 3 == 0;
    shm::post_tickets(segment_.tickets.retire, count);
    const auto longest = board_.idle_longest(count);
    for (uint32_t i = 0; i < kWorkers; ++i) {
      Desk& desk = pool_.desks[i];
      Private& mine = private_[i];
      if (!mine.there) continue;
      if (!longest.empty() && longest[0] == desk.slot) desk.nudged.store(true);
      Slot& slot = board_.slot(desk.slot);
      if (!mine.told && slot.recycle.load()) slot.leave.store(mine.told = true);
    }
  }

  void order_an_end() {
    if (lives_ % 3 != 1) return;
    const uint32_t i = rounds_ % kWorkers;
    if (!private_[i].there || private_[i].ordered) return;
    Slot& slot = board_.slot(pool_.desks[i].slot);
    const uint64_t number = slot.begun.load();
    if (number == 0) return;
    slot.end.store(number);
    if (slot.begun.load() == number &&
        slot.served.load() + slot.failed.load() + slot.aborted.load() < number)
      private_[i].ordered = number, ++orders_stood_;
    else
      slot.end.store(0);
  }

  void keep_books() {
    const shm::Counts counts = board_.counts();
    CU_ASSERT(board_.take_peak() <= kWorkers);
    board_.set_queued(rounds_);
    board_.set_at_max(counts.busy == kWorkers, kBegan + rounds_);
    board_.record(Action::kGrow, Reason::kDemand, 1, counts, 0, board_.peak(), Limits{}, 1, kBegan);
    ++rounds_;
  }

  // Whoever lives on because something was lost leaves first: only its thread can end it.
  void dismiss() {
    segment_.published.leaving.store(shm::kDrain);
    shm::post_tickets(segment_.tickets.start, kWorkers);
    for (uint32_t i = 0; i < kWorkers; ++i) {
      if (private_[i].there) pool_.desks[i].life.wait(private_[i].life);
      pool_.desks[i].life.store(kNoMore);
      pool_.desks[i].life.notify_one();
    }
    pool_.over = true;
  }

  Pool& pool_;
  shm::Scoreboard& board_;
  shm::Segment& segment_ = pool_.segment();
  std::array<Private, kWorkers> private_;
  uint32_t lives_ = 0, rounds_ = 0;
  uint64_t orders_stood_ = 0;
};

// --- control -------------------------------------------------------------------------------------

struct Seen {
  uint32_t rings = 0;
  bool fell = false, nonsense = false;
};

Seen watch(Pool& pool, const SegmentReader& reader) {
  UniqueFd bells(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  TickBell bell(reader.fd(), bells.get());
  Seen seen;
  uint64_t before = 0;
  // At least until it has rung: it is armed before the first connection.
  unit::eventually([&] {
    uint32_t tick = 0;
    seen.nonsense |=
        pread(reader.fd(), &tick, sizeof tick, offsetof(shm::Segment, shared.tick)) < 0;
    bell.arm(tick);
    pool.watched = true;
    pool.watched.notify_one();
    const auto snapshot = reader.read(kBegan);
    seen.nonsense |= !snapshot || snapshot->workers.size() > kWorkers;
    seen.nonsense |= reader.decisions().size() > shm::kDecisions;
    if (!snapshot) return true;
    const shm::Counters& f = snapshot->figures;
    const uint64_t accepted = f.served + f.failed + f.aborted + snapshot->active;
    seen.fell |= accepted < before;
    before = accepted;
    seen.rings += bell.take_ring();
    return pool.over && seen.rings > 0;
  });
  return seen;
}

// -------------------------------------------------------------------------------------------------

void a_pool_of_threads() {
  Pool pool;
  const SegmentReader reader(std::move(pool.fds.read_only));
  bool heard = false;
  uint64_t orders = 0;
  Seen seen;
  {
    std::vector<std::jthread> threads;
    for (uint32_t i = 0; i < kWorkers; ++i)
      threads.emplace_back([&pool, i] { WorkerThread(pool, i).run(); });
    threads.emplace_back([&] { seen = watch(pool, reader); });
    pool.watched.wait(false);
    SupervisorThread supervisor(pool);
    heard = supervisor.run();
    orders = supervisor.orders();
  }
  CU_ASSERT_TRUE(heard);
  CU_ASSERT_FALSE(seen.fell);
  CU_ASSERT_FALSE(seen.nonsense);
  CU_ASSERT(seen.rings > 0);

  Served sum;
  for (const Desk& desk : pool.desks) {
    for (size_t i = 0; i < 3; ++i) sum.ended[i] += desk.served.ended[i];
    sum.busy_ns += desk.served.busy_ns;
    sum.lives_retired += desk.served.lives_retired;
    sum.lives_recycled += desk.served.lives_recycled;
    sum.lives_ended += desk.served.lives_ended;
  }
  const auto end = reader.read(kBegan);
  CU_ASSERT_FATAL(end.has_value());
  const shm::Counters& f = end->figures;
  CU_ASSERT_EQUAL(f.served, sum.of(Outcome::kServed));
  CU_ASSERT_EQUAL(f.failed, sum.of(Outcome::kFailed));
  CU_ASSERT_EQUAL(f.aborted, sum.of(Outcome::kAborted));
  CU_ASSERT(f.failed > 0 && f.aborted > 0);
  CU_ASSERT_EQUAL(f.busy_ns, sum.busy_ns);
  uint64_t in_histogram = 0;
  for (uint64_t bucket : f.histogram) in_histogram += bucket;
  CU_ASSERT_EQUAL(in_histogram, f.served + f.failed + f.aborted);
  CU_ASSERT_EQUAL(f.forked, kLives);
  CU_ASSERT_EQUAL(f.retired, sum.lives_retired);
  CU_ASSERT_EQUAL(f.recycled, sum.lives_recycled);
  CU_ASSERT_EQUAL(f.timed_out, sum.lives_ended);
  CU_ASSERT(f.timed_out >= orders && orders > 0);
  CU_ASSERT_EQUAL(f.retired + f.recycled + f.timed_out, kLives);
  CU_ASSERT_EQUAL(f.crashed, 0);
  // Each way to leave was gone; nobody is there, in no list.
  CU_ASSERT(sum.lives_retired > 0 && sum.lives_recycled > 0);
  CU_ASSERT_EQUAL(end->workers.size(), 0);
  CU_ASSERT_EQUAL(pool.mapping.bits(0).idle.load() | pool.mapping.bits(0).busy.load(), 0);
}

}  // namespace

void add_shm_threads_tests() {
  static const unit::Test kTests[] = {{"1,000 lives of four workers", a_pool_of_threads}};
  unit::add_suite("shm_threads", kTests);
}
