#include "shm/admissions.h"

namespace preforkd::shm {
namespace {

constexpr uint32_t kPending = 1, kAdmitted = 2;
constexpr int kLooks = 1000;

struct Seen {
  uint32_t admitted = 0, pending = 0;
};

Seen look(const Mapping& mapping, uint32_t own_slot, uint64_t source) {
  Seen seen;
  const uint32_t slots = mapping.scan_words() * kSlotsPerWord;
  for (uint32_t slot = 0; slot < slots; ++slot) {
    const Admission& one = mapping.admission(slot);
    const uint32_t state = one.state.load();
    if (slot == own_slot || state == 0 || one.source.load() != source) continue;
    ++(state == kPending ? seen.pending : seen.admitted);
  }
  return seen;
}

}  // namespace

bool admit(const Mapping& mapping, uint32_t slot, uint64_t source, uint32_t limit) {
  Long& version = mapping.segment().shared.admissions;
  Admission& mine = mapping.admission(slot);
  mine.source.store(source);
  for (int i = 0; i < kLooks; ++i) {
    uint64_t expected = version.load();
    const Seen seen = look(mapping, slot, source);
    if (seen.admitted >= limit) return false;
    if (seen.admitted + seen.pending >= limit) continue;
    mine.state.store(kPending);
    if (version.compare_exchange_strong(expected, expected + 1)) {
      mine.state.store(kAdmitted);
      return true;
    }
    mine.state.store(0);
  }
  return false;
}

}  // namespace preforkd::shm
