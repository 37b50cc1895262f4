// A token bucket: so many at once, so many a second after that. Pure: values in, values out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace preforkd {

class Budget {
 public:
  Budget(uint32_t at_once, uint32_t per_second)
      : most_(at_once * kSecond / per_second), each_(kSecond / per_second) {}

  // Whether there are so many more to be had; they are taken then.
  bool take(Nanoseconds now, uint64_t count = 1) {
    used_until_ = std::max(used_until_, now);
    if (used_until_ + count * each_ > now + most_) return false;
    used_until_ += count * each_;
    return true;
  }
  // Takes more, for what has turned out to be dear.
  void take_more(uint64_t count) { used_until_ += count * each_; }

 private:
  Nanoseconds most_, each_;
  Nanoseconds used_until_ = 0;  // what was taken is earned by then
};

}  // namespace preforkd
