// shm/admissions: never more than the limit, nobody refused for nothing, and nothing left by the dead.
#include "shm/admissions.h"

#include <list>

#include "shm/scoreboard.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using unit::Child;

namespace {

constexpr uint64_t kHere = 0x7f000001, kThere = 0;  // (0 is ::1's)

struct Pool : unit::TestSegment {
  explicit Pool(uint32_t workers) : board(mapping, "echo", 1, getpid(), 8, kSecond) {
    for (uint32_t i = 0; i < workers; ++i) board.forked(board.prepare(kSecond), 4242);
  }
  bool admit(uint32_t slot, uint64_t source, uint32_t limit) const {
    return shm::admit(mapping, slot, source, limit);
  }
  shm::Scoreboard board;
};

void counted_by_source() {
  Pool pool(8);
  CU_ASSERT_TRUE(pool.admit(0, kHere, 2) && pool.admit(1, kHere, 2));
  CU_ASSERT_FALSE(pool.admit(2, kHere, 2));
  CU_ASSERT_TRUE(pool.admit(2, kThere, 2) && pool.admit(3, kThere, 2));
  CU_ASSERT_FALSE(pool.admit(4, kThere, 2));
  shm::end_admission(pool.mapping, 0);
  CU_ASSERT_TRUE(pool.admit(4, kHere, 2));
  CU_ASSERT_FALSE(pool.admit(0, kHere, 2));
  pool.board.fold(1, shm::Ending::kCrashed, Outcome::kFailed,
                  kSecond);  // the supervisor has reaped it
  CU_ASSERT_TRUE(pool.admit(0, kHere, 2));
}

// One that died between pending and admitted counts until it is reaped, and nobody waits for it.
void died_pending() {
  Pool pool(4);
  pool.mapping.admission(0).source.store(kHere);
  pool.mapping.admission(0).state.store(1);
  CU_ASSERT_TRUE(pool.admit(1, kHere, 2));
  CU_ASSERT_FALSE(pool.admit(2, kHere, 2));
  pool.board.fold(0, shm::Ending::kCrashed, Outcome::kFailed, kSecond);
  CU_ASSERT_TRUE(pool.admit(2, kHere, 2));
}

struct Turnstile {
  std::atomic<uint32_t> inside{0}, most{0}, admitted{0}, refused{0}, ready{0};
};

// Eight come for three places, again and again.
void never_more() {
  constexpr uint32_t kComers = 8, kLimit = 3, kTimes = 3000;
  Pool pool(kComers);
  unit::Shared<Turnstile> gate;
  std::list<Child> comers;
  for (uint32_t slot = 0; slot < kComers; ++slot)
    comers.emplace_back([&pool, &gate, slot] {
      for (uint32_t i = 0; i < kTimes; ++i) {
        if (!pool.admit(slot, kHere, kLimit)) {
          ++gate->refused;
          continue;
        }
        const uint32_t inside = ++gate->inside;
        for (uint32_t most = gate->most; most < inside;)
          if (gate->most.compare_exchange_weak(most, inside)) break;
        if (i % 7 == 0) sched_yield();
        ++gate->admitted;
        --gate->inside;
        shm::end_admission(pool.mapping, slot);
      }
      return true;
    });
  for (Child& comer : comers) CU_ASSERT_TRUE(comer.succeeded());
  CU_ASSERT(gate->most.load() <= kLimit);
  CU_ASSERT_EQUAL(gate->admitted + gate->refused, kComers * kTimes);
  CU_ASSERT(gate->admitted.load() >= kTimes);
}

// Eight at once for five places, who stay: five get one.
void as_many_as_there_are() {
  constexpr uint32_t kComers = 8, kLimit = 5;
  for (int round = 0; round < 50; ++round) {
    Pool pool(kComers);
    unit::Shared<Turnstile> gate;
    std::list<Child> comers;
    for (uint32_t slot = 0; slot < kComers; ++slot)
      comers.emplace_back([&pool, &gate, slot] {
        ++gate->ready;
        while (gate->ready < kComers) sched_yield();
        ++(pool.admit(slot, kHere, kLimit) ? gate->admitted : gate->refused);
        return true;
      });
    for (Child& comer : comers) CU_ASSERT_TRUE(comer.succeeded());
    CU_ASSERT_EQUAL(gate->admitted.load(), kLimit);
  }
}

}  // namespace

void add_admissions_tests() {
  static const unit::Test kTests[] = {
      {"counted by source", counted_by_source},
      {"one died pending", died_pending},
      {"never more", never_more},
      {"as many as there are", as_many_as_there_are},
  };
  unit::add_suite("admissions", kTests);
}
