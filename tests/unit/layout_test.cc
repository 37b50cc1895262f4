// shm/layout: the offsets that other programs and doc/SHM.md rely on, as numbers.
#include "shm/layout.h"

#include <sys/stat.h>

#include <cctype>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "shm/mapping.h"
#include "shm/region.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace preforkd::shm;

namespace {

struct Part {
  const char* name;
  size_t offset, size;
};

std::string the_document() {
  std::ifstream file("doc/SHM.md");  // the tests run in the repository
  CU_ASSERT_FATAL(file.is_open());
  return {std::istreambuf_iterator<char>(file), {}};
}

void parts_of_a_segment() {
  static const Part kParts[] = {
      {"header", offsetof(Segment, header), sizeof(Header)},
      {"doorbell", offsetof(Segment, doorbell), sizeof(Doorbell)},
      {"published", offsetof(Segment, published), sizeof(Published)},
      {"shared", offsetof(Segment, shared), sizeof(shm::Shared)},
      {"tickets", offsetof(Segment, tickets), sizeof(Tickets)},
      {"gone", offsetof(Segment, gone), sizeof(Gone)},
  };
  size_t end = 0;
  for (const Part& part : kParts) {
    CU_ASSERT_EQUAL(part.offset, end);
    CU_ASSERT_EQUAL(part.offset % kLine, 0);
    end = part.offset + part.size;
  }
  CU_ASSERT_EQUAL(end, sizeof(Segment));
  CU_ASSERT_EQUAL(bits_offset(), end);
}

// A segment of 1,024 slots: 16 bytes for each 64 of them, 16 for each, 1664 for each, and 256 · 72.
void arrays_follow_by_capacity() {
  CU_ASSERT_EQUAL(admissions_offset(1024) - bits_offset(), 256);
  CU_ASSERT_EQUAL(slots_offset(1024) - admissions_offset(1024), 16384);
  CU_ASSERT_EQUAL(decisions_offset(1024) - slots_offset(1024), 1703936);
  CU_ASSERT_EQUAL(segment_size(1024) - decisions_offset(1024), 18432);
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
  CU_ASSERT_EQUAL(offsetof(Slot, note), 1536);
  CU_ASSERT_EQUAL(sizeof(Slot), 1664);
  // Two slots share no pair of cache lines, nor do the two writers of one slot.
  CU_ASSERT_EQUAL(sizeof(Slot) % kLine, 0);
  // Readers depend on it: the counts of what is over come before the count of what was begun.
  CU_ASSERT(offsetof(Slot, served) < offsetof(Slot, begun));
  CU_ASSERT(offsetof(Slot, failed) < offsetof(Slot, begun));
  CU_ASSERT(offsetof(Slot, aborted) < offsetof(Slot, begun));
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
  CU_ASSERT(unit::same_text(said, "shared memory has " + std::to_string(segment_size(1024)) +
                                      " bytes, not " + std::to_string(segment_size(1088))));
}

// --- doc/SHM.md ----------------------------------------------------------------------------------

struct Field {
  size_t offset, width;
  bool operator==(const Field&) const = default;
};
using Fields = std::map<std::string, Field>;  // by "Struct.field"

// The cells of "| 16 | `end` | u64 | ... |", without backquotes and surrounding blanks.
std::vector<std::string> cells(const std::string& row) {
  std::vector<std::string> found;
  for (size_t begin = 1, end; (end = row.find('|', begin)) != row.npos; begin = end + 1) {
    std::string cell = row.substr(begin, end - begin);
    std::erase_if(cell, [](char c) { return c == '`'; });
    cell.erase(0, cell.find_first_not_of(' '));
    found.push_back(cell.substr(0, cell.find_last_not_of(' ') + 1));
  }
  return found;
}

// What the document's tables say, each below the heading "### Struct".
Fields documented_fields() {
  static const std::map<std::string, size_t> kWidths = {
      {"u32", 4},      {"i32", 4},
      {"u64", 8},      {"sem_t", sizeof(sem_t)},
      {"40 bytes", 1}, {"Totals", sizeof(Totals)}};
  std::istringstream document(the_document());
  Fields fields;
  std::string section;
  for (std::string line; std::getline(document, line);) {
    if (line.starts_with("### ")) section = line.substr(4);
    if (section.empty() || !line.starts_with("| ") || !std::isdigit(line[2])) continue;
    auto row = cells(line);
    CU_ASSERT_FATAL(row.size() == 4);
    auto width = kWidths.find(row[2].substr(0, row[2].find(" ×")));
    CU_ASSERT_FATAL(width != kWidths.end());
    fields[section + "." + row[1]] = {std::stoul(row[0]), width->second};
  }
  return fields;
}

#define FIELD(type, field)             \
  Fields::value_type(#type "." #field, \
                     {offsetof(type, field), sizeof(Element<decltype(type::field)>)})
template <class T>
using Element = std::remove_all_extents_t<T>;

Fields declared_fields() {
  using shm::Shared;
  Fields fields{FIELD(Header, magic),
                FIELD(Header, version),
                FIELD(Header, generation),
                FIELD(Header, size),
                FIELD(Header, capacity),
                FIELD(Header, supervisor),
                FIELD(Header, created),
                FIELD(Header, pool),
                FIELD(Doorbell, ring),
                FIELD(Doorbell, sleeping),
                FIELD(Published, low_water),
                FIELD(Published, scan_words),
                FIELD(Published, ring_on),
                FIELD(Published, leaving),
                FIELD(Published, accept_until),
                FIELD(Published, accept_from),
                FIELD(Published, saturated),
                FIELD(Published, at_max),
                FIELD(Published, template_pid),
                FIELD(Published, template_state),
                FIELD(Published, template_since),
                FIELD(Shared, peak_busy),
                FIELD(Shared, watch),
                FIELD(Shared, tick),
                FIELD(Shared, refused),
                FIELD(Shared, recycle),
                FIELD(Shared, admissions),
                FIELD(Shared, turned_away),
                FIELD(Tickets, start),
                FIELD(Tickets, retire),
                FIELD(Gone, edition),
                FIELD(Gone, queued),
                FIELD(Gone, totals),
                FIELD(Totals, at_max_since),
                FIELD(Bits, idle),
                FIELD(Bits, busy),
                FIELD(Admission, source),
                FIELD(Admission, state),
                FIELD(Slot, pid),
                FIELD(Slot, generation),
                FIELD(Slot, forked_at),
                FIELD(Slot, end),
                FIELD(Slot, leave),
                FIELD(Slot, writer),
                FIELD(Slot, client_ended),
                FIELD(Slot, state),
                FIELD(Slot, starting_step),
                FIELD(Slot, since),
                FIELD(Slot, served),
                FIELD(Slot, failed),
                FIELD(Slot, aborted),
                FIELD(Slot, begun),
                FIELD(Slot, busy_ns),
                FIELD(Slot, max_us),
                FIELD(Slot, peer),
                FIELD(Slot, recycle),
                FIELD(Slot, extended_until),
                FIELD(Slot, rejected),
                FIELD(Slot, histogram),
                FIELD(Slot, note),
                FIELD(Decision, sequence),
                FIELD(Decision, at),
                FIELD(Decision, action),
                FIELD(Decision, reason),
                FIELD(Decision, count),
                FIELD(Decision, idle),
                FIELD(Decision, busy),
                FIELD(Decision, starting),
                FIELD(Decision, queued),
                FIELD(Decision, peak),
                FIELD(Decision, min),
                FIELD(Decision, max),
                FIELD(Decision, min_spare),
                FIELD(Decision, max_spare),
                FIELD(Decision, patience)};
  for (const CounterRow& row : kCounterRows)
    fields[std::string("Totals.") + row.member] = {row.offset, sizeof(uint64_t)};
  return fields;
}
#undef FIELD

void the_document_agrees() {
  const Fields documented = documented_fields(), declared = declared_fields();
  for (const auto& [name, field] : declared) {
    auto found = documented.find(name);
    const bool agrees = found != documented.end() && found->second == field;
    if (!agrees) std::printf("\n  %s at %zu, %zu bytes\n", name.c_str(), field.offset, field.width);
    CU_ASSERT_TRUE(agrees);
  }
  CU_ASSERT_EQUAL(documented.size(), declared.size());
}

void the_document_says_where_things_begin() {
  const std::string document = the_document();
  auto number = [](size_t of) { return std::to_string(of); };
  const std::string said[] = {
      "\n| " + number(offsetof(Segment, gone)) + " | " + number(sizeof(Gone)) + " | `Gone` |",
      "\n| " + number(bits_offset()) + " | " + number(sizeof(Bits)) + " for 64 slots | `Bits[]` |",
      "\nA = " + number(bits_offset()) + " + C/4",
      ": A = " + number(admissions_offset(1024)) + ", S = " + number(slots_offset(1024)) +
          ", D = " + number(decisions_offset(1024)) + ", and the segment has " +
          number(segment_size(1024)) + " bytes.",
  };
  for (const std::string& text : said) {
    if (document.find(text) == document.npos) std::printf("\n  not there: %s\n", text.c_str());
    CU_ASSERT_TRUE(document.find(text) != document.npos);
  }
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
      {"doc/SHM.md agrees", the_document_agrees},
      {"doc/SHM.md says where things begin", the_document_says_where_things_begin},
      {"a segment of another size is refused", another_size_is_refused},
  };
  unit::add_suite("layout", kTests);
}
