// shm/reader, control/pool_reader and what is shown of them: the memory of a pool whose workers write over
// it. The input: how long the memory is (16 bits, in units of 8 bytes; 0: as it should be), then patches of a
// good one, each a place (16 bits, in units of 4 bytes), a size (8 bits) and its bytes.
#include <algorithm>
#include <cstring>

#include "control/metrics.h"
#include "control/status_json.h"
#include "tests/fuzz/control.h"

using namespace preforkd;
using fuzz::must;

namespace {

size_t take(std::string_view& rest, size_t bytes) {
  size_t value = 0;
  for (size_t i = 0; i < bytes && !rest.empty(); ++i, rest.remove_prefix(1))
    value |= size_t{static_cast<uint8_t>(rest.front())} << 8 * i;
  return value;
}

void scribble(fuzz::Memory& memory, std::string_view input) {
  size_t length = take(input, 2) * 8;
  while (!input.empty()) {
    size_t place = std::min(take(input, 2) * 4, fuzz::Memory::kSize), bytes = take(input, 1);
    std::string_view patch = input.substr(0, bytes);
    input.remove_prefix(patch.size());
    patch.copy(memory.bytes() + place, fuzz::Memory::kSize - place);
  }
  if (length) memory.resize(length);
}

void check_snapshot(const shm::Snapshot& s) {
  must(s.capacity <= shm::kMaxCapacity && s.workers.size() <= s.capacity, "workers have slots");
  must(uint64_t{s.starting} + s.idle + s.busy + s.retiring == s.workers.size(),
       "each worker is in one state");
  must(s.active <= s.workers.size(), "a worker has one connection");
  for (const auto& w : s.workers)
    must(static_cast<uint32_t>(w.state) < kWorkerStates, "a state that there is");
}

void check_decisions(const std::vector<shm::DecisionView>& decisions) {
  must(decisions.size() <= shm::kDecisions, "no more decisions than there is room for");
  must(std::is_sorted(decisions.begin(), decisions.end(),
                      [](const auto& a, const auto& b) { return a.number < b.number; }),
       "decisions in order");
}

void show(Pools& pools) {
  auto views = view_all(pools.shown());
  for (double busy : views.at(0).busy_over)
    must(busy >= 0 && busy <= 1, "a pool is between idle and busy");
  fuzz::parsed(status_json(pools.daemon(), views, monotonic_now()));
  fuzz::parsed(workers_json(views.at(0).reading));
  metrics_text(pools.daemon(), views, 0, MetricsFormat::kPrometheus);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::Memory memory;
  memory.reset();
  Pools pools;
  fuzz::learn_all(pools, memory);
  PoolReader& pool = *pools.find_shown("echo");
  const shm::Counters before = pool.read(monotonic_now()).figures;

  scribble(memory, fuzz::text_of(data, size));
  shm::SegmentReader reader(memory.descriptor());
  if (auto snapshot = reader.read(monotonic_now())) check_snapshot(*snapshot);
  auto decisions = reader.decisions();
  check_decisions(decisions);
  fuzz::parsed(decisions_json(std::move(decisions), read_clocks()));
  show(pools);

  const shm::Counters after = pool.read(monotonic_now()).figures;
  must(after.served >= before.served && after.forked >= before.forked &&
           after.busy_ns >= before.busy_ns,
       "what was shown never falls");
  return 0;
}
