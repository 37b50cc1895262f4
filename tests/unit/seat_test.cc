// worker/seat: what a worker's steps leave in its slot and its bits, and when it rings.
#include "worker/seat.h"

#include <vector>

#include "shm/doorbell.h"
#include "shm/note.h"
#include "shm/scoreboard.h"
#include "shm/tickets.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using shm::Bits;
using shm::Slot;
using unit::Child;

namespace {

constexpr Nanoseconds kNow = 5000 * kSecond;
constexpr shm::PeerWords kPeer = {2, 3, 4};

// A pool of one word of slots, seen from both sides.
struct Pool : unit::TestSegment {
  Pool() : board(mapping, "echo", 1, getpid(), 8, kNow) {}

  uint32_t fork_one() {
    uint32_t slot = board.prepare(kNow);
    board.forked(slot, 4242);
    return slot;
  }
  Seat started() {
    Seat seat(mapping, fork_one());
    seat.started(kNow);
    return seat;
  }
  const Slot& slot(uint32_t i = 0) const { return mapping.slot(i); }
  bool is(WorkerState state, bool idle_bit, bool busy_bit, uint32_t i = 0) const {
    const Bits& bits = mapping.bits(0);
    return slot(i).state.load() == static_cast<uint32_t>(state) &&
           (bits.idle.load() >> i & 1) == idle_bit && (bits.busy.load() >> i & 1) == busy_bit;
  }
  // How often somebody rang since the last time.
  uint32_t rang() {
    uint32_t before = std::exchange(rings_, shm::rings(segment().doorbell));
    return rings_ - before;
  }
  shm::Published& published() const { return segment().published; }

  shm::Scoreboard board;

 private:
  uint32_t rings_ = 0;
};

void a_life() {
  Pool pool;
  Seat seat(pool.mapping, pool.fork_one());
  CU_ASSERT(pool.is(WorkerState::kStarting, false, false));
  CU_ASSERT_TRUE(seat.wait_to_start());
  CU_ASSERT_EQUAL(pool.slot().starting_step.load(), 2);
  seat.started(kNow + 1);
  CU_ASSERT(pool.is(WorkerState::kIdle, true, false));
  CU_ASSERT_EQUAL(pool.slot().since.load(), kNow + 1);

  seat.begin(kNow + 10, kPeer);
  CU_ASSERT(pool.is(WorkerState::kBusy, false, true) && seat.is_busy());
  CU_ASSERT_EQUAL(seat.begun(), 1);
  CU_ASSERT_EQUAL(pool.slot().begun.load(), 1);
  CU_ASSERT_EQUAL(pool.slot().since.load(), kNow + 10);
  for (size_t i = 0; i < 3; ++i) CU_ASSERT_EQUAL(pool.slot().peer[i].load(), kPeer[i]);

  seat.done(kNow + 10 + 100 * kMicrosecond, Outcome::kServed);
  CU_ASSERT(pool.is(WorkerState::kBusy, false, true));  // until it says idle
  CU_ASSERT_EQUAL(pool.slot().served.load(), 1);
  CU_ASSERT_EQUAL(pool.slot().busy_ns.load(), 100 * kMicrosecond);
  CU_ASSERT_EQUAL(pool.slot().max_us.load(), 100);
  CU_ASSERT_EQUAL(pool.slot().histogram[histogram_bucket(100)].load(), 1);

  seat.idle(kNow + kSecond);
  CU_ASSERT(pool.is(WorkerState::kIdle, true, false) && !seat.is_busy());
  CU_ASSERT_EQUAL(pool.slot().since.load(), kNow + kSecond);
  seat.retire(kNow + 2 * kSecond);
  CU_ASSERT(pool.is(WorkerState::kRetiring, false, false));
  CU_ASSERT_EQUAL(pool.slot().since.load(), kNow + 2 * kSecond);
}

// What is said of a connection is said of that one alone.
void notes_and_extensions() {
  Pool pool;
  Seat seat = pool.started();
  const auto noted = [&] { return shm::note_text(shm::load_note(pool.slot())); };
  seat.begin(kNow, kPeer);
  CU_ASSERT_TRUE(seat.is_serving());
  seat.note("GET /x\n\xff");
  CU_ASSERT(unit::same_text(noted(), "GET /x??"));
  seat.note(std::string(500, 'n'));
  CU_ASSERT_EQUAL(noted().size(), 127);
  seat.extend(kNow + 9 * kSecond);
  seat.extend(kNow + 5 * kSecond);
  CU_ASSERT_EQUAL(pool.slot().extended_until.load(), kNow + 9 * kSecond);
  seat.done(kNow + kSecond, Outcome::kServed);
  CU_ASSERT_FALSE(seat.is_serving());
  seat.begin(kNow + kSecond, kPeer);
  CU_ASSERT(unit::same_text(noted(), ""));
  CU_ASSERT_EQUAL(pool.slot().extended_until.load(), 0);
  seat.extend(kNow + 5 * kSecond);
  CU_ASSERT_EQUAL(pool.slot().extended_until.load(), kNow + 5 * kSecond);
  seat.note("last words");
  pool.board.fold(0, shm::Ending::kCrashed, Outcome::kFailed, kNow + kSecond);
  CU_ASSERT(unit::same_text(noted(), ""));
  CU_ASSERT_EQUAL(pool.slot().extended_until.load(), 0);
}

// However often it asks, it rings once.
void asks_for_recycling() {
  Pool pool;
  Seat seat = pool.started();
  pool.rang();
  seat.ask_for_recycling();
  seat.ask_for_recycling();
  CU_ASSERT_EQUAL(pool.rang(), 1);
  CU_ASSERT_EQUAL(pool.slot().recycle.load(), 1);
  CU_ASSERT_EQUAL(pool.segment().shared.recycle.load(), 1);
}

void figures_add_up() {
  Pool pool;
  Seat seat = pool.started();
  Nanoseconds now = kNow;
  for (Nanoseconds us : {50u, 7u, 3000u, 7u, 30u}) {
    seat.begin(now, kPeer);
    CU_ASSERT_TRUE(seat.is_serving());
    now += us * kMicrosecond;
    seat.done(now, us == 3000 ? Outcome::kFailed : us == 30 ? Outcome::kAborted : Outcome::kServed);
    CU_ASSERT_FALSE(seat.is_serving());
  }
  seat.begin(now, kPeer);
  seat.done(now - 1, Outcome::kServed);  // a clock that goes back costs nothing
  CU_ASSERT_EQUAL(pool.slot().begun.load(), 6);
  CU_ASSERT_EQUAL(pool.slot().served.load(), 4);
  CU_ASSERT_EQUAL(pool.slot().failed.load(), 1);
  CU_ASSERT_EQUAL(pool.slot().aborted.load(), 1);
  CU_ASSERT_EQUAL(pool.slot().busy_ns.load(), 3094 * kMicrosecond);
  CU_ASSERT_EQUAL(pool.slot().max_us.load(), 3000);
  CU_ASSERT_EQUAL(pool.slot().histogram[7].load(), 2);
  CU_ASSERT_EQUAL(pool.slot().histogram[histogram_bucket(3000)].load(), 1);
}

void busy_to_busy_touches_no_bit() {
  Pool pool;
  pool.published().low_water.store(~0u);
  Seat seat = pool.started();
  seat.begin(kNow, kPeer);
  CU_ASSERT_EQUAL(pool.rang(), 1);
  seat.done(kNow + 1, Outcome::kServed);
  // Whatever the bits are now, the next connection leaves them as they are, and rings for nobody.
  Bits& bits = pool.mapping.bits(0);
  bits.idle.store(0x5500);
  bits.busy.store(0xaa00);
  pool.segment().shared.peak_busy.store(0);
  pool.segment().shared.watch.store(1);
  seat.begin(kNow + 2, kPeer);
  CU_ASSERT_EQUAL(bits.idle.load(), 0x5500);
  CU_ASSERT_EQUAL(bits.busy.load(), 0xaa00);
  CU_ASSERT_EQUAL(pool.segment().shared.peak_busy.load(), 0);
  CU_ASSERT_EQUAL(pool.segment().shared.watch.load(), 1);
  CU_ASSERT_EQUAL(pool.rang(), 0);
  CU_ASSERT_EQUAL(pool.slot().begun.load(), 2);
  CU_ASSERT_EQUAL(pool.slot().since.load(), kNow + 2);
}

void retiring_may_be_called_back() {
  Pool pool;
  Seat seat = pool.started();
  seat.retire(kNow);
  seat.begin(kNow + 1, kPeer);  // its last accept brought a connection
  CU_ASSERT(pool.is(WorkerState::kBusy, false, true));
  seat.done(kNow + 2, Outcome::kServed);
  seat.retire(kNow + 3);  // from busy: draining
  CU_ASSERT(pool.is(WorkerState::kRetiring, false, false) && !seat.is_busy());
}

// What worker_may_move() forbids is a defect of the worker, and ends it.
void forbidden_steps_abort() {
  static const struct {
    const char* what;
    void (*step)(Seat&);
  } kRows[] = {
      {"idle to idle", [](Seat& s) { s.idle(kNow); }},
      {"idle to starting and on", [](Seat& s) { s.started(kNow); }},
      {"retiring to idle", [](Seat& s) { s.retire(kNow), s.idle(kNow); }},
      {"retiring twice", [](Seat& s) { s.retire(kNow), s.retire(kNow); }},
  };
  for (const auto& row : kRows) {
    Pool pool;
    Child child([&] {
      Seat seat = pool.started();
      row.step(seat);
      return true;
    });
    if (child.succeeded()) std::printf("\n  %s\n", row.what);
    CU_ASSERT_FALSE(child.succeeded());
  }
}

void rings_below_the_low_water_mark() {
  static const struct {
    uint32_t low_water, workers, busy_before;
    bool rings;
  } kRows[] = {
      {0, 1, 0, false},  // nobody rings: at max
      {1, 2, 0, false},  // one idle is left: as many as the mark
      {1, 1, 0, true},   // none is left
      {2, 3, 0, false}, {2, 3, 1, true}, {2, 2, 0, true}, {3, 64, 60, false}, {3, 64, 61, true},
  };
  for (const auto& row : kRows) {
    Pool pool;
    std::vector<Seat> seats;
    for (uint32_t i = 0; i < row.workers; ++i) seats.push_back(pool.started());
    for (uint32_t i = 0; i < row.busy_before; ++i) seats[i].begin(kNow, kPeer);
    pool.published().low_water.store(row.low_water);
    pool.rang();
    seats[row.busy_before].begin(kNow, kPeer);
    const bool right = pool.rang() == (row.rings ? 1 : 0);
    if (!right)
      std::printf("\n  mark %u, %u workers, %u busy\n", row.low_water, row.workers,
                  row.busy_before);
    CU_ASSERT_TRUE(right);
    CU_ASSERT_EQUAL(seats[row.busy_before].busy_seen(), row.busy_before + 1);
  }
}

void the_watch_is_taken_once() {
  Pool pool;
  Seat first = pool.started(), second = pool.started();
  pool.segment().shared.watch.store(1);
  first.begin(kNow, kPeer);
  CU_ASSERT_EQUAL(pool.rang(), 1);
  CU_ASSERT_EQUAL(pool.segment().shared.watch.load(), 0);
  second.begin(kNow, kPeer);
  CU_ASSERT_EQUAL(pool.rang(), 0);
}

void rings_when_asked_to() {
  Pool pool;
  pool.published().ring_on.store(shm::kRingOnStarted);
  Seat seat = pool.started();
  CU_ASSERT_EQUAL(pool.rang(), 1);
  seat.begin(kNow, kPeer);
  seat.done(kNow, Outcome::kServed);
  CU_ASSERT_EQUAL(pool.rang(), 0);
  pool.published().ring_on.store(shm::kRingOnCompleted);
  pool.started();
  CU_ASSERT_EQUAL(pool.rang(), 0);
  seat.begin(kNow, kPeer);
  CU_ASSERT_EQUAL(pool.rang(), 0);
  seat.done(kNow, Outcome::kFailed);
  CU_ASSERT_EQUAL(pool.rang(), 1);
  seat.ask_for_recycling();
  CU_ASSERT_EQUAL(pool.rang(), 1);
  CU_ASSERT_EQUAL(pool.slot().recycle.load(), 1);
}

void the_peak_is_raised_and_never_lowered() {
  Pool pool;
  Seat seats[] = {pool.started(), pool.started(), pool.started()};
  const shm::Word& peak = pool.segment().shared.peak_busy;
  for (uint32_t i = 0; i < 3; ++i) {
    seats[i].begin(kNow, kPeer);
    CU_ASSERT_EQUAL(peak.load(), i + 1);
  }
  for (Seat& seat : seats) {
    seat.done(kNow, Outcome::kServed);
    seat.idle(kNow);
  }
  seats[0].begin(kNow, kPeer);
  CU_ASSERT_EQUAL(peak.load(), 3);
  CU_ASSERT_EQUAL(pool.board.take_peak(), 3);
  CU_ASSERT_EQUAL(peak.load(), 1);  // the new window begins with who is busy now
}

void the_tick_is_the_second() {
  Pool pool;
  Seat seat = pool.started();
  const shm::Word& tick = pool.segment().shared.tick;
  seat.begin(kNow + kSecond - 1, kPeer);
  CU_ASSERT_EQUAL(tick.load(), 5000);
  seat.done(kNow + kSecond, Outcome::kServed);
  seat.begin(kNow + kSecond, kPeer);  // busy to busy ticks too
  CU_ASSERT_EQUAL(tick.load(), 5001);
}

// Whoever waits on the tick, as control does, is woken by the first connection of a second.
void the_tick_wakes() {
  Pool pool;
  Seat seat = pool.started();
  unit::Shared<shm::Word> waits;
  Child control([&] {
    const shm::Word& tick = pool.segment().shared.tick;
    waits->store(1);
    while (tick.load() == 0) shm::rest(tick, 0, monotonic_now() + unit::kPatience);
    return true;
  });
  CU_ASSERT_TRUE(unit::eventually([&] { return waits->load() == 1; }));
  seat.begin(kNow, kPeer);
  CU_ASSERT_TRUE(control.succeeded());
}

void orders() {
  Pool pool;
  Seat seat = pool.started();
  Slot& slot = pool.mapping.slot(0);
  // No order was given, and no connection yet.
  CU_ASSERT_FALSE(seat.must_end(seat.begun()));
  CU_ASSERT_FALSE(seat.must_leave());
  seat.begin(kNow, kPeer);
  CU_ASSERT_FALSE(seat.must_end(seat.begun()));
  slot.end.store(1);
  CU_ASSERT_TRUE(seat.must_end(seat.begun()));
  seat.done(kNow, Outcome::kServed);
  seat.begin(kNow, kPeer);
  CU_ASSERT_FALSE(seat.must_end(seat.begun()));  // it was about the client before
  slot.end.store(shm::kEndAny);
  CU_ASSERT_TRUE(seat.must_end(seat.begun()));
  CU_ASSERT_TRUE(seat.must_end(0));

  slot.leave.store(1);
  CU_ASSERT_TRUE(seat.must_leave());
  slot.leave.store(0);
  pool.published().leaving.store(shm::kDrain);
  CU_ASSERT_TRUE(seat.must_leave());

  CU_ASSERT_EQUAL(seat.still_accepts_from(kNow), 0);
  pool.published().accept_from.store(5);
  pool.published().accept_until.store(kNow + 1);
  CU_ASSERT_EQUAL(seat.still_accepts_from(kNow), 5);
  CU_ASSERT_EQUAL(seat.still_accepts_from(kNow + 1), 0);
  pool.published().leaving.store(shm::kStay);
  CU_ASSERT_EQUAL(seat.still_accepts_from(kNow), 0);
}

void one_ticket_one_retirement() {
  Pool pool;
  Seat first = pool.started(), second = pool.started();
  CU_ASSERT_FALSE(first.may_retire());
  shm::post_tickets(pool.segment().tickets.retire, 1);
  CU_ASSERT_TRUE(second.may_retire());
  CU_ASSERT_FALSE(first.may_retire());
}

// With `max` lowered, who is done with a connection leaves if there is a ticket; nobody else does.
void one_too_many() {
  Pool pool;
  Seat seat = pool.started();
  auto leaving = [&](shm::Leaving how) { pool.published().leaving.store(how); };
  shm::post_tickets(pool.segment().tickets.retire, 2);
  leaving(shm::kStay);
  CU_ASSERT_FALSE(seat.is_one_too_many());
  leaving(shm::kDrain);
  CU_ASSERT_FALSE(seat.is_one_too_many());
  leaving(shm::kAboveMax);
  CU_ASSERT_FALSE(seat.must_leave());
  CU_ASSERT_TRUE(seat.is_one_too_many());
  CU_ASSERT_TRUE(seat.is_one_too_many());
  CU_ASSERT_FALSE(seat.is_one_too_many());  // no ticket is left
}

// A hostile neighbour has written nonsense where this worker reads.
void nonsense_around() {
  Pool pool;
  Seat seat = pool.started();
  pool.published().scan_words.store(~0u);
  pool.published().low_water.store(~0u);
  pool.mapping.bits(3).busy.store(~uint64_t{0});
  seat.begin(kNow, kPeer);
  CU_ASSERT_EQUAL(seat.busy_seen(), 65);
  seat.done(kNow, Outcome::kServed);
  seat.idle(kNow);
  CU_ASSERT(pool.is(WorkerState::kIdle, true, false));
}

}  // namespace

void add_seat_tests() {
  static const unit::Test kTests[] = {
      {"a life, step by step", a_life},
      {"notes and extensions", notes_and_extensions},
      {"asks for recycling", asks_for_recycling},
      {"figures add up", figures_add_up},
      {"busy to busy touches no bit", busy_to_busy_touches_no_bit},
      {"a retiring one may be called back", retiring_may_be_called_back},
      {"forbidden steps abort", forbidden_steps_abort},
      {"rings below the low-water mark only", rings_below_the_low_water_mark},
      {"the watch is taken once", the_watch_is_taken_once},
      {"rings when asked to", rings_when_asked_to},
      {"the peak is raised and never lowered", the_peak_is_raised_and_never_lowered},
      {"the tick is the second", the_tick_is_the_second},
      {"the tick wakes who waits on it", the_tick_wakes},
      {"orders to end and to leave", orders},
      {"one ticket, one retirement", one_ticket_one_retirement},
      {"one too many, and a ticket", one_too_many},
      {"nonsense around", nonsense_around},
  };
  unit::add_suite("seat", kTests);
}
