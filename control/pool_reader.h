// One pool as control knows it: what the daemon said of it, and the shared memory of its generations.
// Its figures are the totals of the generations that are closed (kept by the daemon, see totals.h)
// plus those of every generation whose segment is here. Single threaded.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "control/utilization.h"
#include "ipc/info.h"
#include "shm/reader.h"

namespace preforkd {

struct Segment {
  shm::SegmentReader reader;
  uint64_t serial;            // no two segments of this process share one
  bool listed = false;        // the daemon has named this generation
  PoolInfo::Generation info;  // ... and said this of it
};

// What one look into the memory of a pool gave.
struct Reading {
  Nanoseconds at = 0;
  shm::Counters figures;              // closed generations included; never less than before
  std::vector<shm::Snapshot> living;  // of the generations that are not over, oldest first
  uint64_t finished_ns = 0;           // busy_ns without the connections in hand; never less either

  // The sum of one member over the living generations: starting, idle, busy, retiring or active.
  uint64_t sum(uint32_t shm::Snapshot::*member) const;
};

class PoolReader {
 public:
  const std::optional<PoolInfo>& info() const { return info_; }
  const std::map<uint32_t, Segment>& segments() const { return segments_; }
  const Utilization& utilization() const { return utilization_; }

  // A generation that was listed before and is no longer is forgotten: `base` includes it.
  void learn(PoolInfo info, const shm::Counters& base);
  void learn_segment(uint32_t generation, UniqueFd read_only, uint64_t serial);
  void lose_segment(uint32_t generation);  // it was sent, and could not be received

  // Whether it has the memory of every generation that was named, but for what is lost: without, figures would be
  // less than another process has shown of them.
  bool is_whole() const;

  // Reads every segment, and takes a sample of the utilisation while at it.
  Reading read(Nanoseconds now);

  // The totals of a generation that is over, all closed ones before it included, for the daemon to
  // keep. Of several generations the oldest first; nothing if there is none or it was handed out.
  struct Closing {
    uint32_t generation;
    shm::Counters totals;
  };
  std::optional<Closing> closing(Nanoseconds now) const;
  void closing_sent(uint32_t generation) { closing_sent_ = generation; }

 private:
  std::optional<PoolInfo> info_;
  shm::Counters base_;
  std::map<uint32_t, Segment> segments_;
  std::set<uint32_t> lost_;
  // What was shown already. Counters never fall, even if a reading was torn between a worker's stores.
  shm::Counters floor_;
  uint64_t finished_floor_ = 0;
  Utilization utilization_;
  std::optional<uint32_t> closing_sent_;
};

}  // namespace preforkd
