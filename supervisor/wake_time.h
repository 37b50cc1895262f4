// When a turn of the supervisor's must be followed by another, whatever happens meanwhile: the earliest of what its parts
// have asked for.
#pragma once

#include <algorithm>

#include "base/clock.h"

namespace preforkd {

class WakeTime {
 public:
  void by(Nanoseconds when) { at_ = std::min(at_, when); }
  Nanoseconds at() const { return at_; }  // kNever: nobody has asked

 private:
  Nanoseconds at_ = kNever;
};

}  // namespace preforkd
