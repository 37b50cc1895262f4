// How busy a pool was during the last seconds, from samples of two sums that only grow: nanoseconds of
// work and nanoseconds of worker existence. Pure: the caller brings the time.
//
// Between two samples both sums are taken to have grown evenly. That makes a gap flat, which is what
// it was: nobody samples while nothing happens. Samples that come too fast (every client who asks
// causes one) replace one another, so that the record stays small.
#pragma once

#include <deque>

#include "base/clock.h"

namespace preforkd {

class Utilization {
 public:
  static constexpr Nanoseconds kLongest = 60 * kSecond;  // the longest window anyone asks for

  void add(Nanoseconds now, uint64_t busy_ns, uint64_t worker_ns);

  // Busy by existing worker time during the last `window`, between 0 and 1; of what is known, if
  // that is less. `otherwise` where nothing is known of it yet.
  double over(Nanoseconds window, double otherwise) const;

 private:
  struct Sample {
    Nanoseconds at = 0;
    double busy = 0, worker = 0;
  };
  Sample at(Nanoseconds when) const;

  std::deque<Sample> samples_;  // oldest first; one of them as old as kLongest, or older
};

}  // namespace preforkd
