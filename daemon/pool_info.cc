#include "daemon/pool_info.h"

namespace preforkd {
namespace {

// A message has its limits (Channel::kMaxDatagram): of all generations together so many are told. Who is left out counts as
// failed.
constexpr size_t kMostEnded = 16384;

// How programs without a supervisor have ended is of use when the last one has: control waits for that.
std::vector<uint32_t> ended(const Generation& generation, bool well, size_t& room) {
  std::vector<uint32_t> pids;
  if (generation.state() != Generation::State::kOver) return pids;
  for (const auto& [pid, ended_well] : generation.ended_programs()) {
    if (ended_well != well || room == 0) continue;
    pids.push_back(static_cast<uint32_t>(pid));
    --room;
  }
  return pids;
}

}  // namespace

PoolInfo pool_info(const Pool& pool) {
  PoolInfo info;
  info.name = pool.settings().name;
  info.state = pool_state_name(pool.state());
  info.reason = pool.reason();
  info.generation = pool.generation();
  size_t room = kMostEnded;
  for (const Generation* g : pool.all_generations())
    info.generations.push_back({.number = g->number(),
                                .over = g->state() == Generation::State::kOver,
                                .supervised = g->has_supervisor(),
                                .ended_well = ended(*g, true, room),
                                .ended_badly = ended(*g, false, room)});
  for (const auto& listener : pool.listeners()) {
    info.listen.push_back(listener->address());
    info.listen_inodes.push_back(listener->inode());
  }
  info.backlog_limit = pool.settings().backlog;
  info.limits = pool.limits();
  info.capacity = pool.capacity();
  return info;
}

}  // namespace preforkd
