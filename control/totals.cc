#include "control/totals.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <set>
#include <type_traits>

namespace preforkd {
namespace {

// The record: this header, then shm::Counters as it lies in memory. Both ends are this very program on
// this very machine; a program of another version finds another `version` or `size` and starts from zero.
struct RecordHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t size;
};
constexpr uint64_t kMagic = 0x6c61746f'746b6670;  // "pfktotal"
constexpr uint32_t kVersion = 3;
static_assert(std::is_trivially_copyable_v<shm::Counters>);
// `at_max_since`, which is no sum, is not in it.
constexpr size_t kBefore = offsetof(shm::Counters, at_max_since);
constexpr size_t kAfter = kBefore + sizeof(uint64_t);
constexpr uint32_t kRecordSize = sizeof(shm::Counters) - sizeof(uint64_t);

}  // namespace

shm::Counters final_figures(const shm::Snapshot& snapshot, const PoolInfo::Generation& info) {
  const std::set<uint32_t> well(info.ended_well.begin(), info.ended_well.end()),
      badly(info.ended_badly.begin(), info.ended_badly.end());
  shm::Counters f = snapshot.figures;
  for (const auto& worker : snapshot.workers) {
    const bool ended_well = well.contains(worker.pid);
    const bool of_itself = ended_well || badly.contains(worker.pid);
    if (!worker.active) {
      f.retired += worker.pid != 0;
      continue;
    }
    ++(of_itself ? f.recycled : f.crashed);
    ++(ended_well ? f.served : of_itself && worker.client_ended ? f.aborted : f.failed);
  }
  f.forked = std::max(f.forked, f.retired + f.crashed + f.timed_out + f.recycled);
  return f;
}

std::string pack_totals(const shm::Counters& figures) {
  RecordHeader header{kMagic, kVersion, kRecordSize};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  const auto* from = reinterpret_cast<const char*>(&figures);
  return bytes.append(from, kBefore).append(from + kAfter, sizeof figures - kAfter);
}

std::optional<shm::Counters> unpack_totals(std::string_view bytes) {
  RecordHeader header;
  if (bytes.size() != sizeof header + kRecordSize) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic || header.version != kVersion || header.size != kRecordSize)
    return std::nullopt;
  bytes.remove_prefix(sizeof header);
  shm::Counters figures;
  auto* to = reinterpret_cast<char*>(&figures);
  bytes.copy(to, kBefore);
  bytes.copy(to + kAfter, sizeof figures - kAfter, kBefore);
  return figures;
}

}  // namespace preforkd
