#include "control/totals.h"

#include <algorithm>
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
constexpr uint32_t kVersion = 4;
static_assert(std::is_trivially_copyable_v<shm::Counters>);

}  // namespace

shm::Counters final_figures(const shm::Snapshot& snapshot, const PoolInfo::Generation& info) {
  const std::set<uint32_t> well(info.ended_well.begin(), info.ended_well.end()),
      badly(info.ended_badly.begin(), info.ended_badly.end());
  shm::Counters f = snapshot.figures;
  for (const auto& worker : snapshot.workers) {
    const bool ended_well = well.contains(worker.pid);
    const bool of_itself = ended_well || badly.contains(worker.pid);
    if (!worker.active) {
      ++f.retired;
      continue;
    }
    ++(of_itself ? f.recycled : f.crashed);
    ++(ended_well ? f.served : of_itself && worker.client_ended ? f.aborted : f.failed);
  }
  return f;
}

std::string pack_totals(const shm::Counters& figures) {
  RecordHeader header{kMagic, kVersion, sizeof figures};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  bytes.append(reinterpret_cast<const char*>(&figures), sizeof figures);
  return bytes;
}

std::optional<shm::Counters> unpack_totals(std::string_view bytes) {
  RecordHeader header;
  shm::Counters figures;
  if (bytes.size() != sizeof header + sizeof figures) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic || header.version != kVersion || header.size != sizeof figures)
    return std::nullopt;
  std::memcpy(&figures, bytes.data() + sizeof header, sizeof figures);
  return figures;
}

}  // namespace preforkd
