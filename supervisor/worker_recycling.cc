#include "supervisor/worker_recycling.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace preforkd {
namespace {

constexpr uint32_t kTenth = 10;
constexpr Nanoseconds kLongConnection = 2 * kSecond;

// 0 if it cannot be had: nobody is replaced for that.
uint64_t resident_mib(pid_t pid) {
  char text[128] = "";
  const int fd = open(("/proc/" + std::to_string(pid) + "/statm").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  unsigned long pages = 0;
  if (size <= 0 || std::sscanf(text, "%*u %lu", &pages) != 1) return 0;
  static const auto kPageSize = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return pages * kPageSize >> 20;
}

}  // namespace

bool WorkerRecycling::is_under_way() const {
  return plan_.settings.connections != 0 || someone_asked_ || table_.worn() > 0;
}

// It serves, or has served since it was measured last. (Who is measured while it serves may grow in what is left of that; the
// number is read first: who has begun another one since is not taken for idle after that.)
bool WorkerRecycling::may_have_grown(uint32_t slot) {
  const uint64_t begun = board_.slot(slot).begun.load();
  const bool is_idle = board_.is_idle(slot);
  uint64_t& measured_after = table_.at(slot).measured_after;
  if (is_idle && measured_after == begun) return false;
  measured_after = is_idle ? begun : kNotMeasured;
  return true;
}

Nanoseconds WorkerRecycling::mark_worn(bool measured, Nanoseconds now) {
  const PoolSettings& settings = plan_.settings;
  if (!measured && settings.max_age == 0) return kNever;
  const uint32_t most = std::max(board_.alive() / kTenth, 1u);
  Nanoseconds next = kNever;
  // Who has been told and goes on serving for long does not keep the others from being replaced.
  uint32_t going = 0;
  if (table_.worn() > 0)
    table_.each([&](uint32_t slot) {
      if (!table_[slot].worn || has_long_connection(slot, now)) return;
      ++going;
      if (table_[slot].told_to_leave) next = now + kLongConnection;
    });
  table_.each([&](uint32_t slot) {
    const WorkerRecord& record = table_[slot];
    if (record.worn || record.told_to_leave || going >= most) return;
    const Nanoseconds grown_up = record.forked_at + settings.min_age;
    const bool old = now >= std::max(record.old_at, grown_up);
    const bool big = measured && now >= grown_up && may_have_grown(slot) &&
                     resident_mib(record.pid) >= settings.max_rss;
    if (!old && !big) {
      if (settings.max_age) next = std::min(next, std::max(record.old_at, grown_up));
      return;
    }
    table_.note_worn(slot);
    ++going;
  });
  return next;
}

bool WorkerRecycling::has_long_connection(uint32_t slot, Nanoseconds now) const {
  const shm::Slot& s = board_.slot(slot);
  return table_[slot].told_to_leave && board_.is_in_hand(slot, s.begun.load()) &&
         now >= s.since.load() + kLongConnection;
}

Headcount WorkerRecycling::headcount(Nanoseconds now) {
  Headcount h;
  h.counts = board_.counts();
  shm::Word& asked = board_.segment().shared.recycle;
  if (asked.load() != 0 && asked.exchange(0) != 0) someone_asked_ = true;
  const bool recycling = is_under_way();
  if (!recycling && table_.told() == 0 && table_.stopped() == 0) return h;
  someone_asked_ = false;
  h.going = h.counts.retiring;
  table_.each([&](uint32_t slot) {
    const WorkerRecord& record = table_[slot];
    const shm::Slot& s = board_.slot(slot);
    const bool wants = recycling && (record.worn || s.recycle.load() != 0);
    someone_asked_ |= wants && !record.worn;
    const bool stopped = record.stopped_at != 0;  // as good as gone, until it goes on
    if (!record.told_to_leave && !wants && !stopped) return;
    auto state = static_cast<WorkerState>(s.state.load());
    if (state == WorkerState::kRetiring) return;  // counted as that already
    h.going += record.told_to_leave && !has_long_connection(slot, now);
    uint32_t& from = board_.is_idle(slot)              ? h.counts.idle
                     : state == WorkerState::kStarting ? h.counts.starting
                                                       : h.counts.busy;
    if (from == 0) return;  // it moved meanwhile
    --from;
    ++(record.told_to_leave || stopped ? h.counts.retiring : h.recycling);
  });
  return h;
}

uint32_t WorkerRecycling::dismiss(const uint32_t most) {
  uint32_t told = 0;
  for (bool idle : {true, false})
    table_.each([&](uint32_t slot) {
      const bool wants = table_[slot].worn || board_.slot(slot).recycle.load();
      if (told == most || table_[slot].told_to_leave || !wants) return;
      if (board_.is_idle(slot) < idle) return;
      board_.slot(slot).leave.store(1);
      table_.note_told_to_leave(slot);
      table_.signal(slot, plan_.nudge_signal());
      ++told;
    });
  return told;
}

}  // namespace preforkd
