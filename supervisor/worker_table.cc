#include "supervisor/worker_table.h"

#include <signal.h>

namespace preforkd {

std::optional<uint32_t> WorkerTable::slot_of(pid_t pid) const {
  const auto found = slot_of_.find(pid);
  return found == slot_of_.end() ? std::nullopt : std::optional(found->second);
}

void WorkerTable::add(uint32_t slot, pid_t pid, Nanoseconds now, Nanoseconds old_at) {
  WorkerRecord& record = records_[slot] = WorkerRecord{};
  record.pid = pid;
  record.forked_at = now;
  record.old_at = old_at;
  slot_of_[pid] = slot;
  ++size_;
  ++unstarted_;
}

void WorkerTable::remove(uint32_t slot) {
  note_stopped(slot, 0);
  WorkerRecord& record = records_[slot];
  unstarted_ -= record.seen_at == 0;
  told_ -= record.told_to_leave;
  ending_ -= record.ending != 0;
  worn_ -= record.worn;
  slot_of_.erase(record.pid);
  record = WorkerRecord{};
  --size_;
}

void WorkerTable::note_through_start(uint32_t slot, Nanoseconds now) {
  records_[slot].seen_at = start_progress_ = now;
  --unstarted_;
}

void WorkerTable::note_told_to_leave(uint32_t slot) {
  told_ += !records_[slot].told_to_leave;
  records_[slot].told_to_leave = true;
}

void WorkerTable::note_ending(uint32_t slot, uint64_t number, Nanoseconds kill_at) {
  ending_ += records_[slot].ending == 0;
  records_[slot].ending = number;
  records_[slot].kill_at = kill_at;
}

void WorkerTable::note_worn(uint32_t slot) {
  worn_ += !records_[slot].worn;
  records_[slot].worn = true;
}

void WorkerTable::note_stopped(uint32_t slot, Nanoseconds at) {
  stopped_ += (at != 0) - (records_[slot].stopped_at != 0);
  records_[slot].stopped_at = at;
}

// A program may have children: they are ended with it. It leads its group from its first moments on.
void WorkerTable::signal(uint32_t slot, int number) const {
  const pid_t pid = records_[slot].pid;
  if (pid == 0) return;  // ordered, and not taken over yet
  if (leads_group_ && (number == SIGTERM || number == SIGKILL) && kill(-pid, number) == 0) return;
  kill(pid, number);
}

}  // namespace preforkd
