// A supervisor's workers, by slot: their pids, and what was seen of each and told to it. Passive: it keeps its counts in step
// with its records, and decides nothing. In private memory, and everything that decides about a worker's fate goes by it; of
// the shared slot is believed only what can hurt nobody but this pool's figures.
//
// Pids without pidfds: these are our own children, only we reap them, and a pid cannot be used again before
// that; so kill(pid) between fork and reap hits the worker and nobody else. (A pidfd each would be copied
// into, and closed by, every worker that is forked.)
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory_resource>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/standstill.h"
#include "supervisor/own_memory.h"

namespace preforkd {

inline constexpr uint64_t kNotMeasured = ~uint64_t{0};

struct WorkerRecord {
  pid_t pid = 0;  // 0: no worker in this slot
  Nanoseconds forked_at = 0;
  Nanoseconds old_at = kNever;  // when it is worn out by age
  bool worn = false;            // ... or by memory: to be replaced
  uint64_t measured_after =
      kNotMeasured;  // connections begun when its memory was measured last, if it was idle then
  uint64_t slow_told = 0;      // the connection number that the log has as slow
  uint64_t ending = 0;         // the connection number it was ordered to end, or kEndAny
  Nanoseconds kill_at = 0;     // when TERM is followed by KILL
  Nanoseconds stopped_at = 0;  // by a signal (SIGSTOP); 0: it runs
  Nanoseconds stood = 0;       // so long in all, while it had the connection `stood_with` in hand
  uint64_t stood_with = 0;
  bool told_stopped = false;  // the log has it: workers may stop each other as often as they like
  bool told_to_leave = false;
  Nanoseconds seen_at = 0;  // when it was first seen past `start`; 0: not yet
};

class WorkerTable {
 public:
  // `leads_group`: each worker leads a process group, which is ended with it.
  WorkerTable(uint32_t capacity, bool leads_group)
      : leads_group_(leads_group), records_(capacity, &own_) {}
  WorkerTable(const WorkerTable&) = delete;
  WorkerTable& operator=(const WorkerTable&) = delete;

  const WorkerRecord& operator[](uint32_t slot) const { return records_[slot]; }
  // What is in no count may be changed by whoever has it.
  WorkerRecord& at(uint32_t slot) { return records_[slot]; }
  std::optional<uint32_t> slot_of(pid_t pid) const;
  template <class Visit>
  void each(Visit visit) const {  // visit(slot), for every worker
    for (uint32_t slot = 0, seen = 0; slot < records_.size() && seen < size_; ++slot) {
      if (records_[slot].pid == 0) continue;
      ++seen;
      visit(slot);
    }
  }

  void add(uint32_t slot, pid_t pid, Nanoseconds now, Nanoseconds old_at);
  void remove(uint32_t slot);
  void note_through_start(uint32_t slot, Nanoseconds now);
  void note_told_to_leave(uint32_t slot);
  void note_ending(uint32_t slot, uint64_t number, Nanoseconds kill_at);
  void note_worn(uint32_t slot);
  void note_stopped(uint32_t slot, Nanoseconds at);  // 0: it runs

  uint32_t unstarted() const { return unstarted_; }  // not yet seen past `start`
  uint32_t told() const { return told_; }            // to leave
  uint32_t ending() const { return ending_; }        // ordered to end
  uint32_t stopped() const { return stopped_; }
  uint32_t worn() const { return worn_; }
  Nanoseconds start_progress() const { return start_progress_; }  // when one last came through

  void signal(uint32_t slot, int number) const;

  // Of this process, and with it of its workers.
  Standstills standstills;

 private:
  const bool leads_group_;
  OwnMemory own_;
  std::pmr::unsynchronized_pool_resource own_pool_{&own_};
  std::pmr::vector<WorkerRecord> records_;  // by slot
  std::pmr::unordered_map<pid_t, uint32_t> slot_of_{&own_pool_};
  uint32_t size_ = 0;
  uint32_t unstarted_ = 0, told_ = 0, ending_ = 0, stopped_ = 0, worn_ = 0;
  Nanoseconds start_progress_ = 0;
};

}  // namespace preforkd
