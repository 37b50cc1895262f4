#include "base/range_set.h"

#include <algorithm>
#include <limits>

namespace preforkd {
namespace {

constexpr size_t kPerSample = 256;  // even: what is before a sample does not count, in or out
constexpr uint64_t kOnes = std::numeric_limits<uint64_t>::max();
constexpr Number128 kGreatest{kOnes, kOnes};

Number128 last_of(const Block& block) {
  auto ones_behind = [](unsigned bits) { return bits >= 64 ? 0 : kOnes >> bits; };
  return {block.first.high | ones_behind(block.bits),
          block.first.low | (block.bits <= 64 ? kOnes : ones_behind(block.bits - 64))};
}

Number128 after(Number128 number) { return {number.high + (number.low == kOnes), number.low + 1}; }

// From `at` on, up to the next one.
struct Change {
  Number128 at;
  bool is_in;
};

// In order, with some that change nothing. The blocks are sorted, the outer ones before those that they contain.
std::vector<Change> changes_of(const std::vector<Block>& blocks, bool otherwise) {
  struct Open {
    Number128 last;
    bool is_in;
  };
  std::vector<Change> changes{{{}, otherwise}};
  std::vector<Open> open;  // those that contain where we are, the innermost last
  auto change = [&](Number128 at, bool is_in) {
    if (changes.back().at == at) changes.pop_back();
    changes.push_back({at, is_in});
  };
  auto close = [&] {
    const Number128 last = open.back().last;
    open.pop_back();
    if (last != kGreatest) change(after(last), open.empty() ? otherwise : open.back().is_in);
  };
  for (const Block& block : blocks) {
    while (!open.empty() && open.back().last < block.first) close();
    change(block.first, block.is_in);
    open.push_back({last_of(block), block.is_in});
  }
  while (!open.empty()) close();
  return changes;
}

constexpr size_t samples_of(size_t changes) { return (changes + kPerSample - 1) / kPerSample; }

}  // namespace

FlatSet flatten(std::vector<Block> blocks, bool otherwise) {
  std::stable_sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) {
    return a.first != b.first ? a.first < b.first : a.bits < b.bits;
  });
  std::vector<Number128> turns;
  bool is_in = false;
  for (const Change& change : changes_of(blocks, otherwise)) {
    if (change.is_in == is_in) continue;
    turns.push_back(change.at);
    is_in = change.is_in;
  }
  FlatSet flat{{turns.size(), 0}};
  flat.reserve(RangeSet::flat_size(turns.size()));
  for (size_t i = 0; i < turns.size(); i += kPerSample) flat.push_back(turns[i]);
  flat.insert(flat.end(), turns.begin(), turns.end());
  return flat;
}

RangeSet::RangeSet(const Number128* flat)
    : count_(flat[0].high), samples_(flat + 1), changes_(samples_ + samples_of(count_)) {}

RangeSet RangeSet::of_all() {
  static constexpr Number128 kAll[] = {{1, 0}, {0, 0}, {0, 0}};
  return RangeSet(kAll);
}

size_t RangeSet::flat_size(uint64_t changes) { return 1 + samples_of(changes) + changes; }

bool RangeSet::contains(Number128 number) const {
  const Number128* samples_end = samples_ + samples_of(count_);
  const Number128* sample = std::upper_bound(samples_, samples_end, number);
  if (sample == samples_) return false;
  const size_t begin = static_cast<size_t>(sample - samples_ - 1) * kPerSample;
  const size_t end = std::min(begin + kPerSample, count_);
  const Number128* behind = std::upper_bound(changes_ + begin, changes_ + end, number);
  return (behind - (changes_ + begin)) % 2 == 1;
}

}  // namespace preforkd
