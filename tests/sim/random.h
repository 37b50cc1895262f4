// Random numbers of a seed: the same everywhere, for ever (splitmix64, by Sebastiano Vigna, public domain).
#pragma once

#include <cmath>
#include <cstdint>

namespace preforkd::sim {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}

  uint64_t next() {
    uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  }
  // Both ends included.
  uint64_t between(uint64_t least, uint64_t most) { return least + next() % (most - least + 1); }
  bool one_in(uint64_t n) { return next() % n == 0; }
  // With this mean, as the times between independent arrivals are.
  uint64_t around(uint64_t mean) {
    const double share = static_cast<double>((next() >> 11) + 1) * 0x1p-53;
    return static_cast<uint64_t>(-std::log(share) * static_cast<double>(mean));
  }

 private:
  uint64_t state_;
};

}  // namespace preforkd::sim
