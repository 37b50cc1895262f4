// control/: what is made of the daemon's news and of shared memory.
#include "tests/unit/control_test.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <climits>

#include "control/pool_view.h"
#include "control/tick_bell.h"
#include "control/totals.h"

using namespace preforkd;

void add_control_answers_tests();  // control_answers_test.cc

namespace {

bool near(double a, double b) { return a - b < 1e-9 && b - a < 1e-9; }

void understands_info() {
  auto info = parse_pool_info(pool_news(kFirst));
  CU_ASSERT_FATAL(info.has_value());
  CU_ASSERT(info->name == "echo" && info->limits.max == 256);
  CU_ASSERT(info->limits.shrink_after == from_seconds(2.5));
  CU_ASSERT(info->generations.size() == 1 && info->generations[0].number == 1);
  for (bool pool : {true, false}) {  // each member is needed, and of its type
    json whole = json::parse(pool ? pool_news(kFirst) : daemon_news());
    auto accepted = [&](const json& o) {
      return pool ? parse_pool_info(o.dump()).has_value() : parse_daemon_info(o.dump()).has_value();
    };
    CU_ASSERT(accepted(whole));
    for (const auto& [name, value] : whole.items()) {
      json without = whole, other = whole;
      without.erase(name);
      other[name] = value.is_object() ? json(1) : json::object();
      CU_ASSERT(!accepted(without));
      CU_ASSERT(!accepted(other));
    }
  }
  json endless = json::parse(pool_news(kFirst));
  endless["limits"]["shrink_after"] = 1e300;  // no number of nanoseconds
  CU_ASSERT(!parse_pool_info(endless.dump()));
  CU_ASSERT(!parse_pool_info("{") && !parse_pool_info("[]") && !parse_daemon_info(""));
}

void refuses_nonsense() {
  Pools pools;
  Channel::Datagram d;
  CU_ASSERT(!pools.learn(d));
  d.bytes = "x";
  CU_ASSERT(!pools.learn(d));
  CU_ASSERT(!learn(pools, ControlNews::kPool, "{}"));
  CU_ASSERT(!learn(pools, static_cast<ControlNews>(99), pool_news(kFirst)));
  d = datagram(ControlNews::kPool, pool_news(kFirst));
  d.bytes.pop_back();
  CU_ASSERT(!pools.learn(d));
  CU_ASSERT(pools.shown().empty());
}

// A generation ends, its totals travel to the daemon and back, and no figure moves meanwhile.
void keeps_figures_over_generations() {
  Pools pools;
  FakeSegment one(1), two(2);
  one.worker(0, WorkerState::kIdle, 10, false);
  one.worker(1, WorkerState::kBusy, 5, true, 2);
  CU_ASSERT(learn(pools, ControlNews::kDaemon, daemon_news()));
  CU_ASSERT(learn_segment(pools, one, 1));  // the segment may come before the pool that names it
  CU_ASSERT(pools.shown().empty());
  CU_ASSERT(learn(pools, ControlNews::kPool, pool_news(kFirst)));
  PoolReader* pool = pools.find_shown("echo");
  CU_ASSERT_FATAL(pool != nullptr);

  PoolView view = view_of(*pool);
  CU_ASSERT(view.total == 2 && view.idle == 1 && view.busy == 1 && view.active == 1);
  CU_ASSERT(view.accepted() == 18 && view.reading.figures.served == 15);
  CU_ASSERT(view.reading.figures.aborted == 2);
  CU_ASSERT(!pool->closing(1).has_value());

  CU_ASSERT(learn(pools, ControlNews::kPool, pool_news(kFirstOver)));
  view = view_of(*pool);
  CU_ASSERT(view.total == 0 && view.active == 0 && view.accepted() == 18);
  CU_ASSERT(view.reading.figures.failed == 1 && view.reading.figures.crashed == 1);
  CU_ASSERT(view.reading.figures.retired == 1);
  auto closing = pool->closing(1);
  CU_ASSERT_FATAL(closing.has_value());
  CU_ASSERT(closing->generation == 1 && closing->totals.served == 15 &&
            closing->totals.aborted == 2);
  pool->closing_sent(1);
  CU_ASSERT(!pool->closing(1).has_value());

  two.worker(0, WorkerState::kIdle, 1, false);
  CU_ASSERT(learn_segment(pools, two, 2));
  CU_ASSERT(learn(pools, ControlNews::kPool, pool_news(json::array({generation_news(2)})),
                  pack_totals(closing->totals)));
  CU_ASSERT(pool->segments().size() == 1 && pool->segments().contains(2));
  view = view_of(*pool);
  CU_ASSERT(view.accepted() == 19 && view.reading.figures.failed == 1 && view.total == 1);

  two.worker(0, WorkerState::kIdle, 0, false);  // a reading that went back is not believed
  CU_ASSERT(view_of(*pool).reading.figures.served == 16);
  two.head().header.capacity = FakeSegment::kCapacity - 64;  // not what the memory's size says
  CU_ASSERT(view_of(*pool).total == 0);
  two.head().header.capacity = FakeSegment::kCapacity;
  CU_ASSERT(view_of(*pool).total == 1);
  two.shrink();  // memory that is cut short costs its figures and nothing else
  CU_ASSERT(view_of(*pool).reading.figures.served == 16);
}

// One that takes the place of another: it is not asked before its figures are whole, in whatever order the news come,
// and however long it takes.
void is_complete_with_its_memory() {
  const json both = json::array({generation_news(1, true), generation_news(2)});
  for (const char* order : {"dp12", "p1d2", "12pd", "1pd2", "pd21"}) {
    Pools pools;
    FakeSegment one(1), two(2);
    one.worker(0, WorkerState::kIdle, 10, false);
    two.worker(0, WorkerState::kIdle, 5, false);
    shm::Counters closed;
    closed.served = 100;
    for (const char* next = order; *next; ++next) {
      CU_ASSERT(!pools.complete());
      if (*next == 'd') CU_ASSERT(learn(pools, ControlNews::kDaemon, daemon_news()));
      if (*next == 'p')
        CU_ASSERT(learn(pools, ControlNews::kPool, pool_news(both), pack_totals(closed)));
      if (*next == '1') CU_ASSERT(learn_segment(pools, one, 1));
      if (*next == '2') CU_ASSERT(learn_segment(pools, two, 2));
    }
    CU_ASSERT(pools.complete());
    CU_ASSERT_EQUAL(view_of(*pools.find_shown("echo")).accepted(), 115);
  }
}

// A descriptor that the kernel could not give to this process is not sent again.
void memory_that_is_lost() {
  Pools pools;
  CU_ASSERT(learn(pools, ControlNews::kDaemon, daemon_news()));
  CU_ASSERT(learn(pools, ControlNews::kPool, pool_news(json::array({generation_news(1)}))));
  CU_ASSERT(!pools.complete());
  SegmentNews news;
  news.generation = 1;
  std::strcpy(news.pool, "echo");
  Channel::Datagram d;
  d.bytes.assign(reinterpret_cast<const char*>(&news), sizeof news);
  CU_ASSERT(pools.learn(d));
  CU_ASSERT(pools.complete());
}

// Programs that lost their supervisor, of which the daemon says how they ended.
void counts_programs_of_the_dead() {
  Pools pools;
  FakeSegment one(1);
  for (uint32_t i = 0; i < 5; ++i) one.worker(i, WorkerState::kBusy, 0, true);
  one.worker(5, WorkerState::kIdle, 0, false);
  for (uint32_t i : {0, 2}) one.slot(i).client_ended = shm::client_end_of(100 + i, 1);
  one.slot(3).client_ended = shm::client_end_of(99, 1);  // of one that had the slot before
  CU_ASSERT(learn(pools, ControlNews::kDaemon, daemon_news()));
  CU_ASSERT(learn_segment(pools, one, 1));
  // 100 and 101 ended well, 102 and 103 with another status, of 104 nothing is known: by a signal, say.
  const json over = json::array({generation_news(1, true, {100, 101, 105}, {102, 103, 7777})});
  CU_ASSERT(learn(pools, ControlNews::kPool, pool_news(over)));
  PoolView view = view_of(*pools.find_shown("echo"));
  const shm::Counters& f = view.reading.figures;
  CU_ASSERT(f.served == 2 && f.aborted == 1 && f.failed == 2 && view.accepted() == 5);
  CU_ASSERT(f.recycled == 4 && f.crashed == 1 && f.retired == 1);
  CU_ASSERT_EQUAL(pools.find_shown("echo")->closing(1)->totals.served, 2);
}

void packs_totals() {
  shm::Counters figures;
  figures.served = 1;
  figures.max_us = 2;
  figures.aborted = 4;
  figures.histogram[kHistogramBuckets - 1] = 3;
  std::string bytes = pack_totals(figures);
  auto back = unpack_totals(bytes);
  CU_ASSERT_FATAL(back.has_value());
  CU_ASSERT(back->aborted == 4 && back->served == 1 && back->max_us == 2 &&
            back->histogram[kHistogramBuckets - 1] == 3);
  CU_ASSERT(!unpack_totals("") && !unpack_totals(bytes + "x") && !unpack_totals(bytes.substr(1)));
  for (size_t i : {0, 8, 12}) {
    std::string wrong = bytes;
    wrong[i] ^= 1;
    CU_ASSERT(!unpack_totals(wrong));
  }
}

void measures_utilization() {
  Utilization u;
  CU_ASSERT(u.over(kSecond, 0.5) == 0.5);  // nothing is known yet
  u.add(100 * kSecond, 0, 0);
  CU_ASSERT(u.over(kSecond, 0.5) == 0.5);
  u.add(110 * kSecond, 10 * kSecond, 40 * kSecond);  // a quarter busy for 10 s
  CU_ASSERT(near(u.over(kSecond, 0), 0.25) && near(u.over(60 * kSecond, 0), 0.25));
  u.add(114 * kSecond, 10 * kSecond, 56 * kSecond);  // then 4 s idle
  CU_ASSERT(near(u.over(kSecond, 9), 0));
  CU_ASSERT(near(u.over(10 * kSecond, 0), 6.0 / 40));  // 6 of the 10 s from before, interpolated
  CU_ASSERT(near(u.over(60 * kSecond, 0), 10.0 / 56));
  u.add(114 * kSecond, 99 * kSecond, 99 * kSecond);  // the same moment: ignored
  CU_ASSERT(near(u.over(60 * kSecond, 0), 10.0 / 56));
  u.add(300 * kSecond, 10 * kSecond, 800 * kSecond);  // long idle: the past leaves the window
  CU_ASSERT(near(u.over(60 * kSecond, 9), 0));

  Utilization often;  // asked 1000 times a second, it still knows the last minute
  for (Nanoseconds t = 0; t <= 100'000; ++t)
    often.add((t + 1) * kMillisecond, t < 70'000 ? 0 : (t - 70'000) * kMillisecond,
              t * kMillisecond);
  CU_ASSERT(near(often.over(60 * kSecond, 0), 0.5) && near(often.over(kSecond, 0), 1));
}

void finds_quantiles() {
  shm::Counters f;
  CU_ASSERT(!service_times(f).has_value());
  f.histogram[histogram_bucket(10)] = 50;
  f.histogram[histogram_bucket(1000)] = 40;
  f.histogram[histogram_bucket(5000)] = 9;
  f.histogram[kHistogramBuckets - 1] = 1;
  f.max_us = uint64_t{1} << 41;
  auto t = service_times(f);
  CU_ASSERT_FATAL(t.has_value());
  CU_ASSERT(t->p50 == 10 && t->p90 == 1023 && t->p99 == 5119 && t->max == uint64_t{1} << 41);
  f.max_us = 900;
  CU_ASSERT(service_times(f)->p90 == 900);  // never above the longest
}

// Within 5 s.
bool rings(int bells) {
  pollfd p{bells, POLLIN, 0};
  uint64_t count = 0;
  return poll(&p, 1, 5000) == 1 && read(bells, &count, sizeof count) == sizeof count;
}

void hears_the_tick() {
  FakeSegment segment(1);
  UniqueFd bells(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  TickBell bell(segment.fd(), bells.get());
  auto& tick = segment.head().shared.tick;
  for (uint32_t round = 0; round < 1000; ++round) {
    bool before = round % 2 == 0;  // it comes before the bell is armed, or about when it waits
    if (!before) bell.arm(round);
    tick = round + 1;
    syscall(SYS_futex, &tick, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    if (before) bell.arm(round);
    CU_ASSERT_FATAL(rings(bells.get()));
    CU_ASSERT(bell.take_ring() && !bell.take_ring());
  }
}

// A bell ends at once in whatever it does: not armed, armed and waiting, and with its memory gone.
void ends_promptly() {
  UniqueFd bells(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Nanoseconds began = monotonic_now();
  for (int round = 0; round < 300; ++round) {
    FakeSegment segment(1);
    if (round % 3 == 2) segment.shrink();
    TickBell bell(segment.fd(), bells.get());
    if (round % 3 != 0) bell.arm(0);
  }
  CU_ASSERT(monotonic_now() - began < 10 * kSecond);
}

}  // namespace

void add_control_tests() {
  static constexpr struct {
    const char* name;
    void (*run)();
  } kTests[] = {
      {"what the daemon says of itself and of a pool is understood", understands_info},
      {"news that are none are refused", refuses_nonsense},
      {"figures stay over generations", keeps_figures_over_generations},
      {"it is complete with its memory", is_complete_with_its_memory},
      {"memory that is lost", memory_that_is_lost},
      {"programs of the dead are counted", counts_programs_of_the_dead},
      {"totals are packed and unpacked", packs_totals},
      {"utilization of the last seconds", measures_utilization},
      {"quantiles of service times", finds_quantiles},
      {"the bell hears each tick", hears_the_tick},
      {"a bell ends promptly", ends_promptly},
  };
  CU_pSuite suite = CU_add_suite("control", nullptr, nullptr);
  for (const auto& test : kTests) CU_add_test(suite, test.name, test.run);
  add_control_answers_tests();
}
