// What the daemon tells control in JSON (ipc/control_messages.h: kDaemon and kPool), as plain structs: all that control shows and
// that does not lie in shared memory. One list of members for who writes and who reads. Pure.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"

namespace preforkd {

struct DaemonInfo {
  std::string version;
  int64_t pid = 0;
  uint64_t uid = 0;
  Nanoseconds started = 0;
  uint64_t reloads = 0;
  int64_t control_gid = -1;  // whose members may change things; -1: nobody's
  bool stopping = false;
  std::vector<std::string> pools;  // in the order of the configuration
};

struct PoolInfo {
  struct Generation {
    uint32_t number = 0;
    bool over = false;       // all its processes are gone
    bool supervised = true;  // its supervisor lives: slots of dead workers are cleared
    // Of those that are over: pids of programs that had no supervisor any more when they ended, and ended of themselves:
    // with one of the pool's `success` statuses, or with another.
    std::vector<uint32_t> ended_well, ended_badly;
  };
  std::string name, state;
  std::string reason;  // why it is degraded
  uint32_t generation = 0;
  std::vector<Generation> generations;
  std::vector<std::string> listen;
  std::vector<ino_t> listen_inodes;
  uint32_t backlog_limit = 0;
  Limits limits;
  uint32_t capacity = 0;
};

// Called by the daemon. What is not UTF-8 (a reason may hold bytes of a file name) is replaced.
std::string to_json(const DaemonInfo& info);
std::string to_json(const PoolInfo& info);

// Called by control. Nothing if a member is missing or of another type: both ends are of one build, so the other end has
// gone mad.
std::optional<DaemonInfo> parse_daemon_info(std::string_view json);
std::optional<PoolInfo> parse_pool_info(std::string_view json);

}  // namespace preforkd
