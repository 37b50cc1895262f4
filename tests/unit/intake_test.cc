// worker/intake: a worker's signals.
#include "worker/intake.h"

#include <csignal>
#include <cstring>
#include <new>
#include <vector>

#include "conf/network_lists.h"
#include "shm/scoreboard.h"
#include "tests/unit/unit_test.h"
#include "worker/signals.h"

using namespace preforkd;

namespace {

constexpr Nanoseconds kNow = 5000 * kSecond;

// Signals come until the process has ended, and nothing of the worker may be needed then.
void signals_at_the_end() {
  unit::TestSegment pool;
  shm::Scoreboard board(pool.mapping, "echo", 1, getpid(), 8, kNow);
  const uint32_t slot = board.prepare(kNow);
  unit::Child worker([&] {
    PoolSettings settings;
    const UniqueFd file = make_network_lists(settings);
    const NetworkLists lists(file.get());
    const std::vector<int> nothing;
    constexpr pid_t kNobody = 1 << 30;  // whoever the parent is: it is an orphan
    const IntakePlan plan{settings, pool.mapping, nothing, kNobody, GateRules(settings, lists)};
    install_inherited_signals([](int) {});
    alignas(Intake) unsigned char place[sizeof(Intake)];
    auto* intake = new (place) Intake(plan, slot);
    intake->take_over_signals(0);
    intake->~Intake();
    std::memset(place, 0xff, sizeof place);
    for (int number : {SIGUSR2, SIGTERM, SIGUSR1}) raise(number);
    return true;
  });
  CU_ASSERT_TRUE(worker.succeeded());
}

}  // namespace

void add_intake_tests() { unit::add_suite("intake", {{"signals at the end", signals_at_the_end}}); }
