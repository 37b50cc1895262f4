#include "base/process_settings.h"

#include <sys/resource.h>

#include <cerrno>

#include "base/error.h"

namespace preforkd {
namespace {

static_assert(ResourceLimit::kUnlimited == RLIM_INFINITY);

struct Row {
  const char* name;
  __rlimit_resource resource;
  ResourceLimit ResourceLimits::*limit;
};
constexpr Row kRows[] = {
    {"as", RLIMIT_AS, &ResourceLimits::as},
    {"core", RLIMIT_CORE, &ResourceLimits::core},
    {"cpu", RLIMIT_CPU, &ResourceLimits::cpu},
    {"data", RLIMIT_DATA, &ResourceLimits::data},
    {"fsize", RLIMIT_FSIZE, &ResourceLimits::fsize},
    {"memlock", RLIMIT_MEMLOCK, &ResourceLimits::memlock},
    {"nofile", RLIMIT_NOFILE, &ResourceLimits::nofile},
    {"nproc", RLIMIT_NPROC, &ResourceLimits::nproc},
    {"stack", RLIMIT_STACK, &ResourceLimits::stack},
};

std::string text_of(const Row& row, ResourceLimit limit) {
  return std::string("limit ") + row.name + " to " +
         (limit.value == ResourceLimit::kUnlimited ? "unlimited" : std::to_string(limit.value));
}

}  // namespace

std::optional<NoRoom> make_room_for(const ResourceLimits& wanted) {
  for (const Row& row : kRows) {
    const ResourceLimit limit = wanted.*row.limit;
    rlimit now{};
    if (!limit.is_set()) continue;
    if (getrlimit(row.resource, &now) == 0 && now.rlim_max >= limit.value) continue;
    now.rlim_max = limit.value;
    if (setrlimit(row.resource, &now) < 0) return NoRoom{row.name, text_of(row, limit), errno};
  }
  return std::nullopt;
}

void live_within(const ResourceLimits& limits) {
  for (const Row& row : kRows) {
    const ResourceLimit limit = limits.*row.limit;
    const rlimit both{limit.value, limit.value};
    if (limit.is_set() && setrlimit(row.resource, &both) < 0)
      throw SysError(text_of(row, limit), errno);
  }
}

}  // namespace preforkd
