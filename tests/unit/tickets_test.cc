// shm/tickets: as many are taken as were posted, by whoever comes, and nobody who dies with one, or
// while waiting for one, is in the way of the others.
#include "shm/tickets.h"

#include <array>
#include <fstream>
#include <random>
#include <vector>

#include "shm/layout.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace preforkd::shm;
using unit::Child;

namespace {

constexpr uint32_t kTakers = 6;

struct Table {
  alignas(kLine) decltype(shm::Tickets::retire) tickets;
  struct alignas(kLine) Taken {
    Word number;
  };
  std::array<Taken, kTakers> taken;  // one writer each
  alignas(kLine) Word over;

  uint32_t sum() const {
    uint32_t total = 0;
    for (const Taken& t : taken) total += t.number.load();
    return total;
  }
};

bool take_until_over(Table& table, uint32_t taker) {
  while (!table.over.load())
    if (try_ticket(table.tickets)) table.taken[taker].number.fetch_add(1);
  return true;
}

void none_more_than_posted() {
  unit::Shared<Table> table;
  create_tickets(table->tickets, 0);
  CU_ASSERT_FALSE(try_ticket(table->tickets));
  std::vector<Child> takers;
  for (uint32_t i = 0; i < kTakers; ++i)
    takers.emplace_back([&table, i] { return take_until_over(*table, i); });
  uint32_t posted = 0;
  for (uint32_t k : {1u, 2u, 5u, 100u, 5000u}) {
    post_tickets(table->tickets, k);
    posted += k;
    CU_ASSERT_TRUE(unit::eventually([&] { return table->sum() >= posted; }));
  }
  table->over.store(1);
  for (Child& taker : takers) CU_ASSERT_TRUE(taker.succeeded());
  CU_ASSERT_EQUAL(table->sum(), posted);
  CU_ASSERT_EQUAL(take_back_tickets(table->tickets, ~0u), 0);
}

// Tickets are taken back while others take them: each goes to exactly one.
void taken_back_or_taken() {
  unit::Shared<Table> table;
  create_tickets(table->tickets, 0);
  Child taker([&] { return take_until_over(*table, 0); });
  uint32_t posted = 0, back = 0;
  for (int round = 0; round < 20'000; ++round) {
    post_tickets(table->tickets, 3);
    posted += 3;
    back += take_back_tickets(table->tickets, 1024);
  }
  table->over.store(1);
  CU_ASSERT_TRUE(taker.succeeded());
  back += take_back_tickets(table->tickets, 1024);
  CU_ASSERT_EQUAL(table->sum() + back, posted);
}

void take_back_is_bounded() {
  unit::Shared<Table> table;
  create_tickets(table->tickets, 10);
  CU_ASSERT_EQUAL(take_back_tickets(table->tickets, 0), 0);
  CU_ASSERT_EQUAL(take_back_tickets(table->tickets, 4), 4);
  CU_ASSERT_EQUAL(take_back_tickets(table->tickets, 1024), 6);
  CU_ASSERT_EQUAL(take_back_tickets(table->tickets, 1024), 0);
}

// Takers are killed again and again at random moments. A kill may lose the one ticket whose taker could
// not say so any more, and nothing else; the others go on.
void killed_takers() {
  unit::Shared<Table> table;
  create_tickets(table->tickets, 0);
  std::mt19937 dice(1);
  constexpr uint32_t kKills = 150;
  uint32_t posted = 0, left = 0;
  for (uint32_t kill = 0; kill < kKills; ++kill) {
    Child waiter([&] {
      while (wait_for_ticket(table->tickets)) table->taken[1].number.fetch_add(1);
      return false;
    });
    Child victim([&] { return take_until_over(*table, 0); });
    const uint32_t before = table->sum();
    for (uint32_t posts = dice() % 50 + 10; posts > 0; --posts, ++posted)
      post_tickets(table->tickets, 1);
    CU_ASSERT_TRUE_FATAL(unit::eventually([&] { return table->sum() > before + dice() % 5; }));
    victim.kill();
    waiter.kill();
    // Nobody is blocked: who comes now takes what is posted now.
    left = take_back_tickets(table->tickets, 1024);
    posted -= left;
    post_tickets(table->tickets, 1);
    CU_ASSERT_TRUE(try_ticket(table->tickets));
  }
  CU_ASSERT(posted >= table->sum());
  CU_ASSERT(posted - table->sum() <= 2 * kKills);
}

bool sleeps(const Child& child) {
  std::ifstream file("/proc/" + std::to_string(child.pid()) + "/stat");
  std::string stat;
  std::getline(file, stat);
  return stat.find(") S ") != stat.npos;
}

// Of two that wait, the one that is woken is killed before it has taken the ticket: the other one gets it.
void killed_when_woken() {
  unit::Shared<Table> table;
  create_tickets(table->tickets, 0);
  for (int round = 0; round < 200; ++round) {
    Child victim([&] { return wait_for_ticket(table->tickets); });
    CU_ASSERT_TRUE_FATAL(unit::eventually([&] { return sleeps(victim); }));
    Child other([&] { return wait_for_ticket(table->tickets); });
    CU_ASSERT_TRUE_FATAL(unit::eventually([&] { return sleeps(other); }));
    post_tickets(table->tickets, 1);
    victim.kill();
    int left = 0;
    sem_getvalue(&table->tickets, &left);
    if (left == 0) post_tickets(table->tickets, 1);  // it had time to take it
    pass_on_wake_up(table->tickets);
    CU_ASSERT_TRUE_FATAL(other.succeeded());
  }
}

void on_signal(int) {}

void a_signal_ends_the_wait() {
  unit::Shared<Table> table;
  create_tickets(table->tickets, 0);
  Child waiter([&] {
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigaction(SIGUSR1, &action, nullptr);
    table->over.store(1);
    return !wait_for_ticket(table->tickets);
  });
  CU_ASSERT_TRUE(unit::eventually([&] { return table->over.load() == 1; }));
  // The signal may come just before the wait: until one met it.
  CU_ASSERT_TRUE(unit::eventually([&] {
    waiter.signal(SIGUSR1);
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(waiter.pid()), &info, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           info.si_pid != 0;
  }));
  CU_ASSERT_TRUE(waiter.succeeded());
  post_tickets(table->tickets, 1);  // whoever waited left nothing behind
  CU_ASSERT_TRUE(wait_for_ticket(table->tickets));
}

// A worker has posted as many as there is room for.
void overflow() {
  unit::Shared<Table> table;
  create_tickets(table->tickets, 0x7fffffff);
  post_tickets(table->tickets, 5);
  CU_ASSERT_EQUAL(take_back_tickets(table->tickets, 1024), 1024);
  CU_ASSERT_TRUE(try_ticket(table->tickets));
}

// A worker has written nonsense over them: what the supervisor calls comes back, and does not abort.
void nonsense() {
  unit::Shared<Table> table;
  Child supervisor([&] {
    std::mt19937 dice(2);
    auto* bytes = reinterpret_cast<volatile unsigned char*>(&table->tickets);
    for (int round = 0; round < 1000; ++round) {
      for (size_t i = 0; i < sizeof table->tickets; ++i)
        bytes[i] = static_cast<unsigned char>(dice() % 3 ? dice() : 0);
      post_tickets(table->tickets, 3);
      if (take_back_tickets(table->tickets, 100) > 100) return false;
    }
    return true;
  });
  CU_ASSERT_TRUE(supervisor.succeeded());
}

}  // namespace

void add_tickets_tests() {
  static const unit::Test kTests[] = {
      {"as many are taken as were posted", none_more_than_posted},
      {"taken back or taken, never both", taken_back_or_taken},
      {"taking back is bounded", take_back_is_bounded},
      {"takers killed at any moment", killed_takers},
      {"killed when woken", killed_when_woken},
      {"a signal ends the wait", a_signal_ends_the_wait},
      {"more than fit", overflow},
      {"nonsense written over them", nonsense},
  };
  unit::add_suite("tickets", kTests);
}
