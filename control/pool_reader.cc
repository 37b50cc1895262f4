#include "control/pool_reader.h"

#include <algorithm>
#include <utility>

#include "control/totals.h"

namespace preforkd {
namespace {

// Without a supervisor nobody clears the slots of those who left: only who has a connection in hand is
// there for sure. (An idle worker leaves at once.)
void forget_the_gone(shm::Snapshot& snapshot) {
  std::erase_if(snapshot.workers, [](const shm::WorkerView& w) { return !w.active; });
  snapshot.starting = snapshot.idle = snapshot.retiring = 0;
  snapshot.busy = snapshot.active;
}

}  // namespace

uint64_t Reading::sum(uint32_t shm::Snapshot::*member) const {
  uint64_t total = 0;
  for (const auto& snapshot : living) total += snapshot.*member;
  return total;
}

void PoolReader::learn(PoolInfo info, const shm::Counters& base) {
  for (auto s = segments_.begin(); s != segments_.end();) {
    auto named = std::find_if(info.generations.begin(), info.generations.end(),
                              [&](const auto& g) { return g.number == s->first; });
    if (named == info.generations.end() && s->second.listed) {
      if (closing_sent_ == s->first) closing_sent_.reset();
      s = segments_.erase(s);
      continue;
    }
    if (named != info.generations.end()) {
      s->second.listed = true;
      s->second.info = *named;
    }
    ++s;
  }
  std::erase_if(lost_, [&](uint32_t number) {
    return std::none_of(info.generations.begin(), info.generations.end(),
                        [&](const auto& g) { return g.number == number; });
  });
  info_ = std::move(info);
  base_ = base;
}

void PoolReader::learn_segment(uint32_t generation, UniqueFd read_only, uint64_t serial) {
  Segment segment{shm::SegmentReader(std::move(read_only)), serial, false, {}};
  if (info_)
    for (const auto& named : info_->generations) {
      if (named.number != generation) continue;
      segment.listed = true;
      segment.info = named;
    }
  segments_.insert_or_assign(generation, std::move(segment));
}

void PoolReader::lose_segment(uint32_t generation) { lost_.insert(generation); }

bool PoolReader::is_whole() const {
  return info_ &&
         std::all_of(info_->generations.begin(), info_->generations.end(), [this](const auto& g) {
           return segments_.contains(g.number) || lost_.contains(g.number);
         });
}

Reading PoolReader::read(Nanoseconds now) {
  Reading reading;
  reading.at = now;
  reading.figures = base_;
  uint64_t unfinished_ns = 0;
  for (const auto& [generation, segment] : segments_) {
    auto snapshot = segment.reader.read(now);
    if (!snapshot) continue;
    snapshot->generation = generation;  // as the daemon says, whatever the memory does
    if (segment.info.over) {
      reading.figures += final_figures(*snapshot, segment.info);
      continue;
    }
    reading.figures += snapshot->figures;
    if (!segment.info.supervised) forget_the_gone(*snapshot);
    for (auto& worker : snapshot->workers)
      if (worker.active && worker.since && now > worker.since) unfinished_ns += now - worker.since;
    reading.living.push_back(std::move(*snapshot));
  }
  uint64_t busy_ns = reading.figures.busy_ns;
  if (busy_ns >= unfinished_ns)
    finished_floor_ = std::max(finished_floor_, busy_ns - unfinished_ns);
  reading.finished_ns = finished_floor_;
  raise_to(floor_, reading.figures);
  reading.figures = floor_;
  utilization_.add(now, floor_.busy_ns, floor_.worker_ns);
  return reading;
}

std::optional<PoolReader::Closing> PoolReader::closing(Nanoseconds now) const {
  if (closing_sent_) return std::nullopt;
  for (const auto& [generation, segment] : segments_) {
    if (!segment.info.over) continue;
    Closing closing{generation, base_};
    if (auto snapshot = segment.reader.read(now))
      closing.totals += final_figures(*snapshot, segment.info);
    return closing;
  }
  return std::nullopt;
}

}  // namespace preforkd
