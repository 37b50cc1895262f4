// shm/layout: the offsets that other programs and doc/SHM.md rely on, as numbers.
#include "shm/layout.h"

#include <sys/stat.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "shm/region.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace preforkd::shm;

namespace {

struct Part {
  const char* name;
  size_t offset, size;
};

void parts_of_a_segment() {
  static const Part kParts[] = {
      {"header", offsetof(Segment, header), sizeof(Header)},
      {"doorbell", offsetof(Segment, doorbell), sizeof(Doorbell)},
      {"published", offsetof(Segment, published), sizeof(Published)},
      {"shared", offsetof(Segment, shared), sizeof(shm::Shared)},
      {"tickets", offsetof(Segment, tickets), sizeof(Tickets)},
      {"totals", offsetof(Segment, totals), sizeof(Totals)},
  };
  size_t end = 0;
  for (const Part& part : kParts) {
    CU_ASSERT_EQUAL(part.offset, end);
    CU_ASSERT_EQUAL(part.offset % kLine, 0);
    end = part.offset + part.size;
  }
  CU_ASSERT_EQUAL(end, sizeof(Segment));
  CU_ASSERT_EQUAL(end, 3200);
  CU_ASSERT_EQUAL(bits_offset(), 3200);
}

// Of a segment of 1,024 slots, worked out by hand: 3200, + 16 · 16, + 1024 · 1536, + 256 · 72.
void arrays_follow_by_capacity() {
  CU_ASSERT_EQUAL(slots_offset(1024), 3456);
  CU_ASSERT_EQUAL(decisions_offset(1024), 1576320);
  CU_ASSERT_EQUAL(segment_size(1024), 1594752);
  for (uint32_t capacity = kSlotsPerWord; capacity <= kMaxCapacity; capacity += kSlotsPerWord) {
    CU_ASSERT(slots_offset(capacity) >= bits_offset() + capacity / 64 * sizeof(Bits));
    CU_ASSERT_EQUAL(slots_offset(capacity) % kLine, 0);
    CU_ASSERT_EQUAL(decisions_offset(capacity) % alignof(Decision), 0);
  }
}

void fields_of_a_slot() {
  CU_ASSERT_EQUAL(offsetof(Slot, pid), 0);
  CU_ASSERT_EQUAL(offsetof(Slot, state), 128);
  CU_ASSERT_EQUAL(offsetof(Slot, histogram), 256);
  CU_ASSERT_EQUAL(sizeof(Slot), 1536);
  // Two slots share no pair of cache lines, nor do the two writers of one slot.
  CU_ASSERT_EQUAL(sizeof(Slot) % kLine, 0);
  // Readers depend on it: the counts of what is over come before the count of what was begun.
  CU_ASSERT(offsetof(Slot, served) < offsetof(Slot, begun));
  CU_ASSERT(offsetof(Slot, failed) < offsetof(Slot, begun));
  CU_ASSERT_EQUAL(offsetof(Slot, served) / 64, offsetof(Slot, begun) / 64);
}

void capacity() {
  static const struct {
    uint32_t max, capacity;
  } kRows[] = {{0, 1024},    {1, 1024},    {1023, 1024}, {1024, 1024},
               {1025, 1088}, {1088, 1088}, {1089, 1152}, {65536, 65536}};
  for (const auto& row : kRows) CU_ASSERT_EQUAL(capacity_for(row.max), row.capacity);
}

void a_segment_fits() {
  for (uint32_t slots : {kSlotsPerWord, kMinCapacity, 4096u}) {
    unit::TestSegment s(slots);
    struct stat st {};
    CU_ASSERT_EQUAL_FATAL(fstat(s.fds.read_only.get(), &st), 0);
    CU_ASSERT_EQUAL(static_cast<size_t>(st.st_size), segment_size(slots));
    CU_ASSERT(static_cast<size_t>(st.st_blocks) * 512 >= segment_size(slots));  // no SIGBUS later
    auto* base = reinterpret_cast<char*>(&s.segment());
    auto at = [base](auto& part) {
      return static_cast<size_t>(reinterpret_cast<char*>(&part) - base);
    };
    CU_ASSERT_EQUAL(at(s.mapping.bits(0)), bits_offset());
    CU_ASSERT_EQUAL(at(s.mapping.slot(0)), slots_offset(slots));
    CU_ASSERT_EQUAL(at(s.mapping.slot(slots - 1)) + sizeof(Slot), decisions_offset(slots));
    CU_ASSERT_EQUAL(at(s.mapping.decision(0)), decisions_offset(slots));
    CU_ASSERT_EQUAL(at(s.mapping.decision(kDecisions - 1)) + sizeof(Decision), segment_size(slots));
    CU_ASSERT_EQUAL(at(s.mapping.decision(kDecisions)), decisions_offset(slots));
  }
}

void no_name_is_left() {
  auto named = [] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
      if (entry.path().filename().string().starts_with("preforkd-")) names.insert(entry.path());
    return names;
  };
  auto before = named();
  unit::TestSegment s;
  for (const std::string& name : named()) CU_ASSERT(before.contains(name));
  // And the reader's descriptor does not let itself be written through.
  CU_ASSERT(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, s.fds.read_only.get(), 0) ==
            MAP_FAILED);
  CU_ASSERT(pwrite(s.fds.read_only.get(), "x", 1, 0) < 0);
}

void another_size_is_refused() {
  shm::SegmentFds fds = create_segment(1024);
  std::string said;
  try {
    Mapping wrong(fds.read_write.get(), 1088);
  } catch (const std::runtime_error& e) {
    said = e.what();
  }
  CU_ASSERT(unit::same_text(said, "shared memory has 1594752 bytes, not 1693184"));
}

}  // namespace

void add_layout_tests() {
  static const unit::Test kTests[] = {
      {"the parts lie one behind the other", parts_of_a_segment},
      {"the arrays follow by capacity", arrays_follow_by_capacity},
      {"fields of a slot", fields_of_a_slot},
      {"capacity for a number of workers", capacity},
      {"a segment fits, and is allocated", a_segment_fits},
      {"no name is left, and readers cannot write", no_name_is_left},
      {"a segment of another size is refused", another_size_is_refused},
  };
  unit::add_suite("layout", kTests);
}
