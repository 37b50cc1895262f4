// supervisor/breaker: what is a step of the row, how long it pauses, what ends it; and what each loss costs.
#include "supervisor/breaker.h"

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

using Kind = Loss::Kind;
constexpr uint32_t kMiddle = 512;  // of the jitter: exactly the pause
constexpr uint32_t kMax = 20;
constexpr Nanoseconds kNow = 1000 * kSecond;

Breaker after(Breaker b, Kind kind, Nanoseconds forked_at, Nanoseconds now, uint32_t times = 1,
              Nanoseconds processor_time = 0) {
  while (times--) b = b.after_loss({kind, forked_at, forked_at, processor_time}, now, kMiddle);
  return b;
}

// Each forked after the death before it.
Breaker steps_in_a_row(uint32_t count) {
  Breaker b;
  for (uint32_t i = 0; i < count; ++i) b = after(b, Kind::kUnable, kNow + 2 * i, kNow + 2 * i + 1);
  return b;
}

void trips_at_the_fifth_step() {
  for (uint32_t n = 0; n < 5; ++n) {
    CU_ASSERT_FALSE(steps_in_a_row(n).tripped());
    CU_ASSERT_EQUAL(steps_in_a_row(n).retry_at, 0);
  }
  CU_ASSERT_TRUE(steps_in_a_row(5).tripped());
  CU_ASSERT_EQUAL(steps_in_a_row(5).died, 5);
}

void a_round_is_one_step() {
  Breaker b = after({}, Kind::kUnable, kNow, kNow + 1, 500);
  b = after(b, Kind::kUnable, kNow, kNow + kSecond, 500);  // the late ones of it
  CU_ASSERT_EQUAL(b.steps, 1);
  CU_ASSERT_EQUAL(b.died, 1000);
  // Forked in the same turn as the step was noted: the next round.
  b = after(b, Kind::kUnable, kNow + 1, kNow + 2, 500);
  CU_ASSERT_EQUAL(b.steps, 2);
}

// Of 500 that were forked at once 32 may start at once: five such groups are five steps, and the others none.
void starters_that_waited_for_a_ticket() {
  Breaker b;
  auto die = [&](Nanoseconds began_at, Nanoseconds now) {
    b = b.after_loss({Kind::kUnable, kNow, began_at, 0}, now, kMiddle);
  };
  for (Nanoseconds group = 1; group <= 10; ++group)
    for (int i = 0; i < 32; ++i) die(kNow + group * kSecond, kNow + group * kSecond + 1);
  CU_ASSERT_EQUAL(b.steps, 5);
  CU_ASSERT_EQUAL(b.died, 320);
  b = after(b, Kind::kUnable, kNow + 20 * kSecond, kNow + 21 * kSecond);  // a probe
  CU_ASSERT_EQUAL(b.steps, 6);
}

void nothing_else_is_a_step() {
  for (Kind kind : {Kind::kOrdered, Kind::kLeft, Kind::kUsed, Kind::kUnused}) {
    Breaker b;
    for (Nanoseconds at = kNow; at < kNow + 1000; ++at) b = after(b, kind, at, at);
    CU_ASSERT_EQUAL(b.steps, 0);
    CU_ASSERT_EQUAL(b.retry_at, 0);
  }
}

void pauses_double() {
  static const struct {
    uint32_t steps;
    Nanoseconds pause;
  } kRows[] = {
      {5, 100 * kMillisecond},    {6, 200 * kMillisecond},  {7, 400 * kMillisecond},
      {8, 800 * kMillisecond},    {9, 1600 * kMillisecond}, {12, 12800 * kMillisecond},
      {13, 25600 * kMillisecond}, {14, 30 * kSecond},       {1000, 30 * kSecond},
  };
  for (const auto& row : kRows) {
    Breaker b = steps_in_a_row(row.steps);
    CU_ASSERT_EQUAL(b.pause(), row.pause);
    CU_ASSERT_EQUAL(b.retry_at, b.stepped_at + row.pause);
    CU_ASSERT_EQUAL(b.after_probe(kMax, 2 * kNow, kMiddle).retry_at, 2 * kNow + row.pause);
  }
}

void jitter_is_a_quarter() {
  const Breaker four = steps_in_a_row(4);
  const Nanoseconds now = kNow + kSecond;
  auto pause_of = [&](uint32_t jitter) {
    return four.after_loss({Kind::kUnable, now, now, 0}, now, jitter).retry_at - now;
  };
  Nanoseconds lowest = kNever, highest = 0;
  for (uint32_t jitter = 0; jitter < 5000; ++jitter) {
    lowest = std::min(lowest, pause_of(jitter));
    highest = std::max(highest, pause_of(jitter));
  }
  CU_ASSERT_EQUAL(lowest, 75 * kMillisecond);
  CU_ASSERT(highest > 124 * kMillisecond && highest <= 125 * kMillisecond);
  CU_ASSERT(pause_of(~0u) <= 125 * kMillisecond);
}

void proof_ends_the_row() {
  Breaker b = steps_in_a_row(7).after_proof();
  CU_ASSERT_FALSE(b.tripped());
  CU_ASSERT_EQUAL(b.retry_at, 0);
  CU_ASSERT_EQUAL(b.died, 0);
  b = after(b, Kind::kUnable, kNow + kSecond, kNow + kSecond);
  CU_ASSERT_EQUAL(b.steps, 1);
  // What is owed, is owed all the same.
  b = after({}, Kind::kUsed, kNow, kNow, static_cast<uint32_t>(Breaker::credit(kMax)) + 1);
  CU_ASSERT_EQUAL(b.after_proof().pace(kMax, kNow), Breaker::kPerUsed);
  // The pause that paces them is another one than that of a row.
  b = b.after_probe(kMax, kNow, kMiddle);
  CU_ASSERT_EQUAL(b.retry_at, kNow + Breaker::kPerUsed);
  CU_ASSERT_EQUAL(b.after_proof().retry_at, b.retry_at);
}

// As many at once as there is credit for, and then one each `price`.
void each_loss_has_its_price() {
  static const struct {
    Kind kind;
    Nanoseconds processor_time, price;
    uint32_t per_price;  // so many of them cost it
  } kRows[] = {
      {Kind::kLeft, kSecond, Breaker::kPerUsed, 4},
      {Kind::kUsed, kSecond, Breaker::kPerUsed, 1},
      {Kind::kUnused, 0, Breaker::kPerUsed, 1},
      {Kind::kUnused, 30 * kMillisecond, 300 * kMillisecond, 1},
      {Kind::kUnused, 1000 * kSecond, kSecond, 1},
      {Kind::kUnable, 30 * kMillisecond, 300 * kMillisecond, 1},
  };
  for (const auto& row : kRows) {
    const auto credit = static_cast<uint32_t>(Breaker::credit(kMax)) * row.per_price;
    Breaker b = after({}, row.kind, kNow - 1, kNow, credit, row.processor_time);
    CU_ASSERT_EQUAL(b.pace(kMax, kNow), 0);
    b = after(b, row.kind, kNow - 1, kNow, row.per_price, row.processor_time);
    CU_ASSERT_EQUAL(b.pace(kMax, kNow), row.price);
    CU_ASSERT_EQUAL(b.pace(kMax + 1, kNow), 0);
    CU_ASSERT_EQUAL(b.after_probe(kMax, kNow, kMiddle).retry_at, kNow + row.price);
    CU_ASSERT_EQUAL(b.pace(kMax, kNow + row.price), 0);
    // Whoever dies as fast as it is forked stays at that pace.
    for (int i = 1; i <= 100; ++i)
      b = after(b, row.kind, kNow - 1, kNow + i * row.price, row.per_price, row.processor_time);
    CU_ASSERT_EQUAL(b.pace(kMax, kNow + 100 * row.price), row.price);
  }
}

void what_was_ordered_costs_nothing() {
  const Breaker b = after({}, Kind::kOrdered, kNow, kNow, 100'000, kSecond);
  CU_ASSERT_EQUAL(b.pace(1, kNow), 0);
}

}  // namespace

void add_breaker_tests() {
  static const unit::Test kTests[] = {
      {"trips at the fifth step in a row", trips_at_the_fifth_step},
      {"a round is one step", a_round_is_one_step},
      {"starters that waited for a ticket", starters_that_waited_for_a_ticket},
      {"nothing else is a step", nothing_else_is_a_step},
      {"pauses double up to 30 s", pauses_double},
      {"jitter spreads by a quarter", jitter_is_a_quarter},
      {"proof ends the row", proof_ends_the_row},
      {"each loss has its price", each_loss_has_its_price},
      {"what was ordered costs nothing", what_was_ordered_costs_nothing},
  };
  unit::add_suite("breaker", kTests);
}
