// A set of numbers of 128 bits that costs next to nothing to ask, however many blocks of numbers it was made of: where
// membership changes, in order. Pure; base/networks.h says of addresses which numbers they are.
//
// It is made once, as one flat array without pointers, which can lie in a file that many processes map. To ask is a binary
// search in every 256th of the changes, which lie side by side, and one between two of these: two or three pages are
// looked at, and nothing is allocated.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace preforkd {

struct Number128 {
  uint64_t high = 0, low = 0;

  auto operator<=>(const Number128&) const = default;
};

// Numbers that have their first `bits` bits in common with `first`, whose others are 0. Two of them are nested or apart.
struct Block {
  Number128 first;
  unsigned bits = 0;
  bool is_in = false;
};

// The flat form of a set: of the blocks that have a number the one with the most bits decides, of equal ones the last;
// where none has it, `otherwise`.
using FlatSet = std::vector<Number128>;
FlatSet flatten(std::vector<Block> blocks, bool otherwise);

// Borrows a flat form.
class RangeSet {
 public:
  RangeSet() = default;  // has nothing
  explicit RangeSet(const Number128* flat);
  static RangeSet of_all();

  bool contains(Number128 number) const;
  bool has_all() const { return count_ == 1 && changes_[0] == Number128{}; }
  // Of a flat form with so many changes, which is its first word.
  static size_t flat_size(uint64_t changes);

 private:
  size_t count_ = 0;
  const Number128* samples_ = nullptr;
  const Number128* changes_ = nullptr;
};

}  // namespace preforkd
