// What a pool counts over its life: each counter is a member and a row here. A new one is these two, the place where the
// supervisor counts it (shm/scoreboard.cc), and a line in doc/SHM.md. Copying, adding up, status, metrics and the layout's
// number go by the rows. One that workers count has a field in their slots besides (shm/layout.h: Slot and
// for_each_slot_counter; worker/seat.cc), as any field of shared memory a line in tests/unit/layout_test.cc.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "shm/histogram.h"
#include "shm/rejection.h"

namespace preforkd::shm {

// Sums over workers. In shared memory, where the supervisor has those over the dead, Number is an atomic; elsewhere a plain
// one, so that generations can be added up and those that are over be kept (`busy_ns`, `worker_ns` and `at_max_ns` that were
// read from a segment include what is still going on at that moment).
template <class Number>
struct CountersOf {
  Number served{}, failed{}, aborted{};  // connections; shm/outcome.h
  Number rejected[kRejections]{};        // connections; by shm/rejection.h
  Number forked{}, retired{}, crashed{}, timed_out{},
      recycled{};                        // workers; timed_out: ended by us
  Number templates{}, templates_lost{};  // of `preload`: started; died, or ended by us while wanted
  Number busy_ns{};                      // time spent serving
  Number worker_ns{};                    // time existed
  Number at_max_ns{};                    // time the pool had `max` workers, up to at_max_since
  Number at_max_since{};  // CLOCK_MONOTONIC; 0: it has not now. No counter: it has no row
  Number max_us{};        // longest service time
  Number histogram[kHistogramBuckets]{};  // of service times; shm/histogram.h
};
using Counters = CountersOf<uint64_t>;

// Where /v1/status and /metrics show it; kByItself: in a way of its own (control/status_json.cc, control/metrics.cc).
enum class CounterGroup { kConnections, kWorkers, kTimes, kByItself };

struct CounterRow {
  CounterGroup group;
  const char* member;  // in Counters
  size_t offset;
  size_t count;  // how many there are of it
  bool is_sum;   // else the most of all
  const char* name = nullptr;
  const char* metric = nullptr;  // without _total
  const char* help = nullptr;
};
// How many numbers a member is: one, or as many as its array has.
template <class Member>
inline constexpr size_t kNumbersOf = std::max(std::extent_v<Member>, size_t{1});
#define MEMBER(name) #name, offsetof(Counters, name), kNumbersOf < decltype(Counters::name)>
inline constexpr CounterRow kCounterRows[] = {
    {CounterGroup::kConnections, MEMBER(served), true, "served", "preforkd_connections_served",
     "Connections that ended well."},
    {CounterGroup::kConnections, MEMBER(failed), true, "failed", "preforkd_connections_failed",
     "Connections that ended by an error, a crash or a deadline."},
    {CounterGroup::kConnections, MEMBER(aborted), true, "aborted", "preforkd_connections_aborted",
     "Connections that did not end well because the client had reset or left them."},
    {CounterGroup::kWorkers, MEMBER(forked), true, "forked", "preforkd_workers_forked",
     "Workers started."},
    {CounterGroup::kWorkers, MEMBER(retired), true, "retired", "preforkd_workers_retired",
     "Workers that left when they were asked to."},
    {CounterGroup::kWorkers, MEMBER(crashed), true, "crashed", "preforkd_workers_crashed",
     "Workers that died by themselves."},
    {CounterGroup::kWorkers, MEMBER(timed_out), true, "timed_out", "preforkd_workers_timed_out",
     "Workers ended by timeouts.start, timeouts.connection or timeouts.drain."},
    {CounterGroup::kWorkers, MEMBER(recycled), true, "recycled", "preforkd_workers_recycled",
     "Workers replaced after they had served their connections."},
    {CounterGroup::kWorkers, MEMBER(templates), true, "templates", "preforkd_templates_started",
     "Programs started to be forked from (preload)."},
    {CounterGroup::kWorkers, MEMBER(templates_lost), true, "templates_lost",
     "preforkd_templates_lost", "Of those, how many died or were ended while they were needed."},
    {CounterGroup::kTimes, MEMBER(at_max_ns), true, "seconds_at_max", "preforkd_at_max_seconds",
     "Time that the pool was as big as max."},
    {CounterGroup::kTimes, MEMBER(busy_ns), true, "busy_seconds", "preforkd_busy_seconds",
     "Time that workers spent serving, summed."},
    {CounterGroup::kTimes, MEMBER(worker_ns), true, "worker_seconds", "preforkd_worker_seconds",
     "Time that workers existed, summed."},
    {CounterGroup::kByItself, MEMBER(rejected), true},
    {CounterGroup::kByItself, MEMBER(max_us), false},
    {CounterGroup::kByItself, MEMBER(histogram), true},
};
#undef MEMBER

// The i-th of a row's numbers; of one with a single number that.
template <class Number>
const Number& number_of(const CounterRow& row, const CountersOf<Number>& counters, size_t i = 0) {
  return reinterpret_cast<const Number*>(&counters)[row.offset / sizeof(uint64_t) + i];
}
template <class Number>
Number& number_of(const CounterRow& row, CountersOf<Number>& counters, size_t i = 0) {
  return reinterpret_cast<Number*>(&counters)[row.offset / sizeof(uint64_t) + i];
}

// visit(row, number of the first, number of the second), for every number of every counter.
template <class Visit, class First, class Second>
void for_each_counter(First& first, Second& second, Visit visit) {
  for (const CounterRow& row : kCounterRows)
    for (size_t i = 0; i < row.count; ++i)
      visit(row, number_of(row, first, i), number_of(row, second, i));
}

inline void add(bool is_sum, uint64_t& to, uint64_t more) {
  to = is_sum ? to + more : std::max(to, more);
}

inline Counters& operator+=(Counters& to, const Counters& more) {
  for_each_counter(to, more,
                   [](const CounterRow& row, uint64_t& a, uint64_t b) { add(row.is_sum, a, b); });
  return to;
}

// Each becomes at least that of `seen`.
inline void raise_to(Counters& floor, const Counters& seen) {
  for_each_counter(floor, seen,
                   [](const CounterRow&, uint64_t& a, uint64_t b) { a = std::max(a, b); });
}

}  // namespace preforkd::shm
