#include "daemon/facts.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/version.h"

namespace preforkd {

using nlohmann::json;

std::string daemon_facts(Nanoseconds started, uint64_t reloads, int64_t control_gid, bool stopping,
                         const std::vector<std::string>& pools) {
  return json{{"version", kVersion},   {"pid", getpid()},    {"uid", geteuid()},
              {"started_ns", started}, {"reloads", reloads}, {"control_gid", control_gid},
              {"stopping", stopping},  {"pools", pools}}
      .dump();
}

namespace {

// A message has its limits (Channel::kMaxDatagram): of all generations together so many are told. Who is left out counts as
// failed.
constexpr size_t kMostEnded = 16384;

// How programs without a supervisor have ended is of use when the last one has: control waits for that.
json ended(const Generation& generation, bool well, size_t& room) {
  json pids = json::array();
  if (generation.state() != Generation::State::kOver) return pids;
  for (const auto& [pid, ended_well] : generation.ended_programs()) {
    if (ended_well != well || room == 0) continue;
    pids.push_back(pid);
    --room;
  }
  return pids;
}

}  // namespace

std::string pool_facts(const Pool& pool) {
  const Limits& l = pool.limits();
  json generations = json::array(), listen = json::array(), inodes = json::array();
  size_t room = kMostEnded;
  for (const Generation* g : pool.all_generations())
    generations.push_back({{"number", g->number()},
                           {"over", g->state() == Generation::State::kOver},
                           {"supervised", g->has_supervisor()},
                           {"ended_well", ended(*g, true, room)},
                           {"ended_badly", ended(*g, false, room)}});
  for (const auto& listener : pool.listeners()) {
    listen.push_back(listener->address());
    inodes.push_back(listener->inode());
  }
  return json{{"name", pool.settings().name},
              {"state", pool_state_name(pool.state())},
              {"reason", pool.reason()},
              {"generation", pool.generation()},
              {"generations", generations},
              {"listen", listen},
              {"listen_inodes", inodes},
              {"backlog_limit", pool.settings().backlog},
              {"limits",
               {{"min", l.min},
                {"max", l.max},
                {"min_spare", l.min_spare},
                {"max_spare", l.max_spare},
                {"shrink_after", to_seconds(l.shrink_after)}}},
              {"capacity", pool.capacity()}}
      // A reason may hold bytes of a file name; what is not UTF-8 is replaced.
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace preforkd
