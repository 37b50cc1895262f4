// shm/doorbell: hammered by several processes, and by signals, in the hope of losing a wake-up. A
// sleeper that nobody woke finds out by its deadline.
#include "shm/doorbell.h"

#include <sys/time.h>

#include <array>
#include <vector>

#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace preforkd::shm;
using unit::Child;
using unit::kPatience;

namespace {

constexpr uint32_t kMaxRingers = 4;

struct HandOffs {
  Doorbell bell;
  // Each in a line of its own, as the words of different writers are in the segment.
  struct alignas(kLine) Work {
    Word published, taken;
  };
  std::array<Work, kMaxRingers> work;
};

// Publishes one piece of work at a time, rings, and waits until it was taken, so that the sleeper is on
// its way to sleep each time.
bool ring_so_often(HandOffs& shared, uint32_t ringer, uint32_t times) {
  HandOffs::Work& mine = shared.work[ringer];
  for (uint32_t n = 1; n <= times; ++n) {
    mine.published.store(n);
    ring(shared.bell);
    if (!unit::eventually([&] { return mine.taken.load() == n; })) return false;
  }
  return true;
}

// Takes work and sleeps, as the supervisor does, until all of it came. False: a wake-up was lost.
bool take_all(HandOffs& shared, uint32_t ringers, uint32_t times) {
  for (;;) {
    const uint32_t seen = rings(shared.bell);
    uint32_t finished = 0;
    for (uint32_t i = 0; i < ringers; ++i) {
      uint32_t published = shared.work[i].published.load();
      shared.work[i].taken.store(published);
      finished += published == times;
    }
    if (finished == ringers) return true;
    const Nanoseconds deadline = monotonic_now() + kPatience / 2;
    sleep_until_rung(shared.bell, seen, deadline);
    if (monotonic_now() >= deadline) return false;
  }
}

void hammer(uint32_t ringers, uint32_t times) {
  unit::Shared<HandOffs> shared;
  std::vector<Child> children;
  for (uint32_t i = 0; i < ringers; ++i)
    children.emplace_back([&shared, i, times] { return ring_so_often(*shared, i, times); });
  CU_ASSERT_TRUE(take_all(*shared, ringers, times));
  for (Child& child : children) CU_ASSERT_TRUE(child.succeeded());
  CU_ASSERT(rings(shared->bell) >= ringers * times);
}

// One alone: nobody else's ring can make up for a lost one.
void one_ringer() { hammer(1, 100'000); }
void several_ringers() { hammer(3, 35'000); }

void a_ring_before_the_sleep() {
  unit::Shared<Doorbell> bell;
  const uint32_t seen = rings(*bell);
  ring(*bell);
  const Nanoseconds before = monotonic_now();
  sleep_until_rung(*bell, seen, before + kPatience);
  CU_ASSERT(monotonic_now() < before + kPatience / 2);
  CU_ASSERT_EQUAL(bell->sleeping.load(), 0);
}

void a_deadline() {
  unit::Shared<Doorbell> bell;
  const Nanoseconds deadline = monotonic_now() + 5 * kMillisecond;
  while (monotonic_now() < deadline) sleep_until_rung(*bell, rings(*bell), deadline);
  sleep_until_rung(*bell, rings(*bell), 1);  // long past: returns at once
  CU_ASSERT_EQUAL(bell->sleeping.load(), 0);
}

// Whoever sleeps with sleeping = 1 is woken once, and the flag is taken with it.
void one_call_a_sleep() {
  unit::Shared<Doorbell> bell;
  bell->sleeping.store(1);
  ring(*bell);
  CU_ASSERT_EQUAL(bell->sleeping.load(), 0);
  CU_ASSERT_EQUAL(rings(*bell), 2);  // the ring, and once more for having taken the flag
  ring(*bell);
  CU_ASSERT_EQUAL(rings(*bell), 3);
}

// A ringer killed at any instruction: its death is a signal to the sleeper, and the next ring works.
void killed_ringers() {
  unit::Shared<HandOffs> shared;
  for (int round = 0; round < 100; ++round) {
    Child victim([&] {
      for (;;) ring(shared->bell);
      return false;
    });
    const uint32_t some = rings(shared->bell) + 1 + static_cast<uint32_t>(round) * 7;
    while (static_cast<int32_t>(some - rings(shared->bell)) > 0) {
      sleep_until_rung(shared->bell, rings(shared->bell), monotonic_now() + kMillisecond);
    }
    victim.kill();
  }
  Child survivor([&] { return ring_so_often(*shared, 0, 1000); });
  CU_ASSERT_TRUE(take_all(*shared, 1, 1000));
  CU_ASSERT_TRUE(survivor.succeeded());
}

// --- signals -------------------------------------------------------------------------------------

// What a handler can reach; as in the supervisor.
struct {
  Doorbell* bell = nullptr;
  Word count{0};
} signalled;

void on_signal(int) {
  signalled.count.fetch_add(1);
  if (signalled.bell) ring_from_signal(*signalled.bell);
}

class HandlesSignals {
 public:
  explicit HandlesSignals(Doorbell* bell) {
    signalled.bell = bell;
    signalled.count.store(0);
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigaction(SIGUSR1, &action, &before_);
    sigaction(SIGALRM, &action, &before_alarm_);
  }
  ~HandlesSignals() {
    sigaction(SIGUSR1, &before_, nullptr);
    sigaction(SIGALRM, &before_alarm_, nullptr);
    signalled.bell = nullptr;
  }

 private:
  struct sigaction before_ {
  }, before_alarm_{};
};

void a_signal_between_look_and_sleep() {
  unit::Shared<Doorbell> bell;
  HandlesSignals handles(&*bell);
  const uint32_t seen = rings(*bell);
  raise(SIGUSR1);
  const Nanoseconds before = monotonic_now();
  sleep_until_rung(*bell, seen, before + kPatience);
  CU_ASSERT(monotonic_now() < before + kPatience / 2);
}

// A process signals at whatever moment the sleeper is at, and waits for its answer.
void hammered_by_signals() {
  constexpr uint32_t kTimes = 20'000;
  unit::Shared<Doorbell> bell;
  unit::Shared<Word> answered;
  HandlesSignals handles(&*bell);
  const pid_t sleeper = getpid();
  Child signaller([&, sleeper] {
    for (uint32_t n = 1; n <= kTimes; ++n) {
      ::kill(sleeper, SIGUSR1);
      if (!unit::eventually([&] { return answered->load() == n; })) return false;
    }
    return true;
  });
  bool lost = false;
  while (!lost && answered->load() < kTimes) {
    const uint32_t seen = rings(*bell);
    answered->store(signalled.count.load());
    if (answered->load() == kTimes) break;
    const Nanoseconds deadline = monotonic_now() + kPatience / 2;
    sleep_until_rung(*bell, seen, deadline);
    lost = monotonic_now() >= deadline;
  }
  CU_ASSERT_FALSE(lost);
  CU_ASSERT_TRUE(signaller.succeeded());
}

void rest_hears_signals() {
  unit::Shared<Doorbell> bell;
  HandlesSignals handles(&*bell);
  uint32_t seen = signalled.count.load();
  raise(SIGUSR1);
  Nanoseconds before = monotonic_now();
  rest(signalled.count, seen, before + kPatience);  // one came after the look: does not sleep

  seen = signalled.count.load();
  itimerval soon{};
  soon.it_value.tv_usec = 5000;
  setitimer(ITIMER_REAL, &soon, nullptr);
  rest(signalled.count, seen, before + kPatience);  // one comes while it sleeps
  CU_ASSERT(monotonic_now() < before + kPatience / 2);
  CU_ASSERT_EQUAL(signalled.count.load(), 2);
}

void rest_does_not_hear_rings() {
  unit::Shared<HandOffs> shared;
  HandlesSignals handles(nullptr);
  Child flood([&] {
    for (;;) {
      ring(shared->bell);
      shared->work[0].published.fetch_add(1);
    }
    return false;
  });
  CU_ASSERT_TRUE(unit::eventually([&] { return rings(shared->bell) > 0; }));
  const Nanoseconds deadline = monotonic_now() + 5 * kMillisecond;
  rest(signalled.count, signalled.count.load(), deadline);
  CU_ASSERT(monotonic_now() >= deadline);
}

// wake_all() reaches whoever waits on the word by the kernel's own rules, as control does.
void wakes_all() {
  unit::Shared<HandOffs> shared;
  std::vector<Child> sleepers;
  for (uint32_t i = 0; i < 3; ++i)
    sleepers.emplace_back([&shared, i] {
      shared->work[i].published.store(1);
      while (shared->bell.ring.load() == 0) rest(shared->bell.ring, 0, monotonic_now() + kPatience);
      return true;
    });
  CU_ASSERT_TRUE(unit::eventually([&] {
    return shared->work[0].published && shared->work[1].published && shared->work[2].published;
  }));
  shared->bell.ring.store(1);
  wake_all(shared->bell.ring);
  for (Child& sleeper : sleepers) CU_ASSERT_TRUE(sleeper.succeeded());
}

}  // namespace

void add_doorbell_tests() {
  static const unit::Test kTests[] = {
      {"one ringer, 100,000 hand-offs", one_ringer},
      {"three ringers, 105,000 hand-offs", several_ringers},
      {"a ring before the sleep", a_ring_before_the_sleep},
      {"a deadline ends the sleep", a_deadline},
      {"one system call a sleep", one_call_a_sleep},
      {"ringers killed at any moment", killed_ringers},
      {"a signal between look and sleep", a_signal_between_look_and_sleep},
      {"20,000 signals at any moment", hammered_by_signals},
      {"rest() hears signals", rest_hears_signals},
      {"rest() does not hear rings", rest_does_not_hear_rings},
      {"wake_all() wakes all", wakes_all},
  };
  unit::add_suite("doorbell", kTests);
}
