// How many bits of a word are set. std::popcount calls a library function on processors as old as the ones we
// build for, and that function's page is one more that each fresh worker has to fault in.
#pragma once

#include <cstdint>

namespace preforkd::shm {

constexpr uint32_t count_bits(uint64_t word) {
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<uint32_t>(word * 0x0101010101010101 >> 56);
}
static_assert(count_bits(0) == 0 && count_bits(~uint64_t{0}) == 64);
static_assert(count_bits(0x8000000000000001) == 2 && count_bits(0xf0f0) == 8);

}  // namespace preforkd::shm
