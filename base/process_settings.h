// What a process of a pool is given besides its user: where it runs, its environment, its priority, and how
// much of the machine it may use. Values of the configuration; the daemon gives the first three to the supervisor
// when it starts it, workers take the rest upon themselves: a supervisor that ran out of what they are
// allowed, or was killed in the place of one that ate the memory, would be of no use to them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace preforkd {

// Of setrlimit(2), soft and hard.
struct ResourceLimit {
  static constexpr uint64_t kUnlimited = UINT64_MAX;  // RLIM_INFINITY
  static constexpr uint64_t kInherited = UINT64_MAX - 1;
  uint64_t value = kInherited;

  bool is_set() const { return value != kInherited; }
  bool operator==(const ResourceLimit&) const = default;
};

struct ResourceLimits {
  ResourceLimit as, core, cpu, data, fsize, memlock, nofile, nproc, stack;

  bool operator==(const ResourceLimits&) const = default;
};

// Of proc(5)'s oom_score_adj: who is killed first when memory is short.
struct OomScoreAdjust {
  static constexpr int32_t kInherited = INT32_MIN;
  int32_t value = kInherited;

  bool is_set() const { return value != kInherited; }
  bool operator==(const OomScoreAdjust&) const = default;
};

using Environment = std::map<std::string, std::string>;

struct ProcessSettings {
  std::string working_directory;  // "" = the daemon's
  Environment environment;        // besides the daemon's
  int32_t nice = 0;               // added to the daemon's
  OomScoreAdjust oom_score_adjust;
  ResourceLimits limits;

  bool has_any_for_workers() const {
    return oom_score_adjust.is_set() || limits != ResourceLimits{};
  }
  bool operator==(const ProcessSettings&) const = default;
};

// Raises, for this process and its children, the hard limits that are lower than what is wanted, which takes
// root. The first that cannot be raised, or nothing.
struct NoRoom {
  std::string name, what;  // "nofile", "limit nofile to 100000"
  int error;
};
std::optional<NoRoom> make_room_for(const ResourceLimits& wanted);
// Lowers the score to what is wanted, if it is higher, which takes CAP_SYS_RESOURCE: then children may have that, too.
std::optional<NoRoom> make_room_for(OomScoreAdjust wanted);

// What a worker takes upon itself, from now on. Throws SysError "limit nofile to 100000: reason".
void live_within(const ProcessSettings& settings);

}  // namespace preforkd
