#include "base/process_settings.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/error.h"
#include "base/fd.h"

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

constexpr char kScoreFile[] = "/proc/self/oom_score_adj";

std::string text_of(OomScoreAdjust score) {
  return "set oom_score_adj to " + std::to_string(score.value);
}

int own_score() {
  char text[16] = "";
  const UniqueFd file(open(kScoreFile, O_RDONLY | O_CLOEXEC));
  if (file.is_open() && read(file.get(), text, sizeof text - 1) > 0) return std::atoi(text);
  return 0;
}

// 0, or an errno.
int set_own_score(OomScoreAdjust score) {
  const UniqueFd file(open(kScoreFile, O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(score.value);
  return file.is_open() && write(file.get(), text.data(), text.size()) > 0 ? 0 : errno;
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

std::optional<NoRoom> make_room_for(OomScoreAdjust wanted) {
  if (!wanted.is_set() || wanted.value >= own_score()) return std::nullopt;
  const int error = set_own_score(wanted);
  if (error == 0) return std::nullopt;
  return NoRoom{"oom_score_adjust", text_of(wanted), error};
}

void live_within(const ProcessSettings& settings) {
  const OomScoreAdjust score = settings.oom_score_adjust;
  if (const int error = score.is_set() ? set_own_score(score) : 0)
    throw SysError(text_of(score), error);
  const ResourceLimits& limits = settings.limits;
  for (const Row& row : kRows) {
    const ResourceLimit limit = limits.*row.limit;
    const rlimit both{limit.value, limit.value};
    if (limit.is_set() && setrlimit(row.resource, &both) < 0)
      throw SysError(text_of(row, limit), errno);
  }
}

}  // namespace preforkd
