// The breaker and the rate of forks: what a supervisor makes of the loss of a worker. Pure: values in, values out.
//
// The breaker is about workers that die *before they could serve*: in their start, or, of a program, in the exec.
// Forking more of them at full speed helps nobody. Five steps in a row trip it; from then on one worker at a time,
// after a pause that doubles with each further step (with jitter, so that pools do not beat in step). A step is not
// a death but a round: who had begun before the last step was noted belongs to that one, and while it is tripped
// who was forked before. So however many die at once, it is one step.
//   What ends the row: below the trip a worker that came through its start since the last step; once tripped, one
//   that lives for kProof after that (what crashes at its first idle moment crashes at once: daemon/trial.h), or that
//   has served somebody when it is gone, however soon: one connection may be all that it is for. Of a program, which
//   shows only with a connection whether it can be executed: one that had it in hand for so long, or ended with it.
//
// A death with a connection in hand costs that connection and nothing else; the clients of a pool do not trip it.
// Against everything else there is the rate. Each loss that the supervisor did not order has a price in time, and
// while more is owed than the pool has credit for, one worker is forked each such time:
//
//   it died, or was ended, after a connection or with one         4 ms: 250 a second
//   it died without ever having had one: of no use to anybody     ten times the processor time that it had used, by
//                                                                 the kernel's word; 4 ms to 1 s
//   it left as it should, after a connection, and by itself       1 ms: 1000 a second
//   it was told to; or a program ended, as each connection does   nothing
//
// So a pool whose workers die as soon as they are idle costs a tenth of a processor in the end, whatever a start
// costs: 250 handlers of 0.35 ms (by `make bench`) a second, 3 Pythons of 30 ms. Of the others the same 250, for
// what they have served cannot be told from their start. 1 ms is above what `connections = 1` needs.
// The credit is for kAtOnce and four times `max` workers: somebody may kill all that there are, and all again.
//
// Whether a worker came through its start, or had a connection, is read from memory that it can write. One that lies
// about either does not trip the breaker, and has the rate against it; no lie gets it past 1000 forks a second.
// (It can call fork itself.) One that lives for kProof in each of its starts has earned the reset.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/backoff.h"
#include "base/clock.h"

namespace preforkd {

// What is spent is made good by time.
struct Debt {
  Nanoseconds even_at = 0;  // when nothing is owed any more

  Debt after(Nanoseconds price, Nanoseconds now) const { return {std::max(even_at, now) + price}; }
  bool exceeds(Nanoseconds credit, Nanoseconds now) const { return even_at > now + credit; }
};

// A worker that is gone, as the supervisor judged it (Workforce::judge).
struct Loss {
  enum class Kind {
    kOrdered,  // or in the nature of the thing: a program that ended
    kLeft,     // by itself, as it should, after a connection
    kUsed,     // died, or was ended, after a connection or with one
    kUnused,   // without
    kUnable,   // died before it could serve
  };
  Kind kind = Kind::kOrdered;
  Nanoseconds forked_at = 0;
  // When it began with what it died of: its `start`, once it had a ticket; of a program its connection.
  Nanoseconds began_at = 0;
  Nanoseconds processor_time = 0;
};

struct Breaker {
  static constexpr uint32_t kTripsAt = 5;
  static constexpr Backoff kPause = {100 * kMillisecond, 30 * kSecond};
  static constexpr Nanoseconds kProof = 300 * kMillisecond;
  static constexpr Nanoseconds kPerLeft = 1 * kMillisecond;
  static constexpr Nanoseconds kPerUsed = 4 * kMillisecond;
  static constexpr Nanoseconds kPerUseless = 1 * kSecond;  // at most
  static constexpr uint32_t kTimesItsCost = 10;
  static constexpr uint32_t kAtOnce = 1024;

  uint32_t steps = 0;          // in a row
  uint32_t died = 0;           // workers, in these
  Nanoseconds stepped_at = 0;  // when the last one was noted
  Nanoseconds retry_at = 0;    // no worker is forked before then
  Debt used, useless;
  Nanoseconds useless_price = kPerUsed;  // of the last one

  bool tripped() const { return steps >= kTripsAt; }
  Nanoseconds pause() const { return kPause.after(steps - kTripsAt + 1); }
  // Losses that a pool of at most `max` workers may owe.
  static constexpr uint64_t credit(uint32_t max) { return kAtOnce + 4 * uint64_t{max}; }
  // The time that each fork takes now in a pool of at most `max` workers; 0: as many as are wanted.
  Nanoseconds pace(uint32_t max, Nanoseconds now) const {
    if (useless.exceeds(credit(max) * useless_price, now)) return useless_price;
    return used.exceeds(credit(max) * kPerUsed, now) ? kPerUsed : 0;
  }

  // `jitter` is any random number: a pause is spread over ±25 %.
  Breaker after_loss(const Loss& loss, Nanoseconds now, uint32_t jitter) const {
    Breaker next = *this;
    switch (loss.kind) {
      case Loss::Kind::kOrdered:
        break;
      case Loss::Kind::kLeft:
        next.used = used.after(kPerLeft, now);
        break;
      case Loss::Kind::kUsed:
        next.used = used.after(kPerUsed, now);
        break;
      case Loss::Kind::kUnused:
        next.pay_for_useless(loss, now);
        break;
      case Loss::Kind::kUnable:
        next.pay_for_useless(loss, now);
        next.step(loss, now, jitter);
        break;
    }
    return next;
  }
  // One was forked while it is tripped, or paced.
  Breaker after_probe(uint32_t max, Nanoseconds now, uint32_t jitter) const {
    Breaker next = *this;
    next.retry_at = now + (tripped() ? spread(pause(), jitter) : pace(max, now));
    return next;
  }
  // A worker has shown that it can serve. (That settles no debt: what is paced stays so, whatever is claimed.)
  Breaker after_proof() const {
    Breaker next = *this;
    if (tripped()) next.retry_at = 0;
    next.steps = next.died = 0;
    return next;
  }

 private:
  void step(const Loss& loss, Nanoseconds now, uint32_t jitter) {
    ++died;
    if ((tripped() ? loss.forked_at : loss.began_at) < stepped_at) return;
    ++steps;
    stepped_at = now;
    if (tripped()) retry_at = now + spread(pause(), jitter);
  }
  void pay_for_useless(const Loss& loss, Nanoseconds now) {
    const Nanoseconds most = kPerUseless / kTimesItsCost;
    useless_price = std::max(kPerUsed, std::min(loss.processor_time, most) * kTimesItsCost);
    useless = useless.after(useless_price, now);
  }
};

}  // namespace preforkd
