#include "control/pools.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "control/totals.h"
#include "ipc/control_messages.h"

namespace preforkd {
namespace {

shm::Counters base_of(std::string_view pool, std::string_view bytes) {
  if (bytes.empty()) return {};
  if (auto figures = unpack_totals(bytes)) return *figures;
  log({LogLevel::kWarning, pool, 0,
       "read the totals of its closed generations: not a record of this version; they count as "
       "zero"});
  return {};
}

}  // namespace

std::vector<PoolReader*> Pools::shown() {
  std::vector<PoolReader*> shown;
  for (const auto& name : daemon_.pools) {
    auto pool = pools_.find(name);
    if (pool != pools_.end() && pool->second.info()) shown.push_back(&pool->second);
  }
  return shown;
}

bool Pools::complete() {
  const auto pools = shown();
  return daemon_.pid != 0 && pools.size() == daemon_.pools.size() &&
         std::all_of(pools.begin(), pools.end(), [](const auto* pool) { return pool->is_whole(); });
}

PoolReader* Pools::find_shown(std::string_view name) {
  for (PoolReader* pool : shown())
    if (pool->info()->name == name) return pool;
  return nullptr;
}

bool Pools::learn(Channel::Datagram& datagram) {
  ControlNews kind{};
  if (datagram.bytes.size() < sizeof kind) return false;
  std::memcpy(&kind, datagram.bytes.data(), sizeof kind);
  switch (kind) {
    case ControlNews::kDaemon:
    case ControlNews::kPool:
      return learn_json(datagram.bytes);
    case ControlNews::kSegment:
      return learn_segment(datagram);
    case ControlNews::kAnswer:
    case ControlNews::kPing:
      break;
  }
  return false;
}

bool Pools::learn_json(std::string_view bytes) {
  ControlNewsHeader header;
  if (bytes.size() < sizeof header) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  bytes.remove_prefix(sizeof header);
  if (bytes.size() != uint64_t{header.json_size} + header.base_size) return false;
  std::string_view json = bytes.substr(0, header.json_size);

  if (header.kind == ControlNews::kDaemon) {
    auto info = parse_daemon_info(json);
    if (!info) return false;
    daemon_ = std::move(*info);
    std::erase_if(pools_, [&](const auto& pool) {
      return std::find(daemon_.pools.begin(), daemon_.pools.end(), pool.first) ==
             daemon_.pools.end();
    });
    return true;
  }
  auto info = parse_pool_info(json);
  if (!info) return false;
  auto base = base_of(info->name, bytes.substr(header.json_size));
  PoolReader& pool = pools_[info->name];
  pool.learn(std::move(*info), base);
  return true;
}

bool Pools::learn_segment(Channel::Datagram& datagram) {
  auto news = datagram.as<SegmentNews>();
  if (!news || news->pool[kPoolNameMax] != '\0') return false;
  if (!datagram.descriptor.is_open()) {  // the kernel drops it when this process may open no more
    log({LogLevel::kError, news->pool, 0,
         "receive the memory of generation " + std::to_string(news->generation) +
             ": no descriptor came with it"});
    pools_[news->pool].lose_segment(news->generation);
    return true;
  }
  pools_[news->pool].learn_segment(news->generation, std::move(datagram.descriptor),
                                   next_serial_++);
  return true;
}

}  // namespace preforkd
