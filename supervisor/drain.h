// How a supervisor leaves: its workers stop accepting, but for who waits already on the sockets that nobody else will serve;
// busy ones finish, within a time; then every worker is ended.
//
//   serving ──drain──▶ draining ──nobody is left──▶ (the supervisor exits)
//      │                  └──the time is over──▶ ending ──every worker is gone──▶ (it exits)
//      └──stop─────────────────────────────────────▲
#pragma once

#include "shm/scoreboard.h"
#include "supervisor/wake_time.h"
#include "worker/worker.h"

namespace preforkd {

class Drain {
 public:
  // Of the listen sockets the first `own_sockets` are preforkd's; the others were inherited, and outlive it.
  Drain(const WorkerPlan& plan, shm::Scoreboard& board, uint32_t own_sockets)
      : plan_(plan), board_(board), own_sockets_(own_sockets) {}

  bool is_serving() const { return course_ == Course::kServing; }
  bool is_draining() const { return course_ == Course::kDraining; }

  // `finish`: the sockets (bit i: the i-th) on which who waits already is served.
  void begin(Nanoseconds timeout, uint64_t finish, Nanoseconds now);
  void end();  // from now on nobody has any time
  // Not by its own clock (base/standstill.h): to those who finish. A worker that looked before takes the queue for
  // finished, and leaves; another is forked.
  void give_time(Nanoseconds length);
  bool time_is_over(Nanoseconds now, WakeTime& wake) const;
  Nanoseconds until() const { return until_; }  // while draining: then who is left is ended

  uint64_t finish() const { return finish_; }  // 0: nobody who waits is served any more
  // Whether nobody is left who could still be served. Only handshakes under way join the queue yet; once it is empty
  // without any, it is for good. (They are looked at first: who has finished one is in the queue.) The one who hears it first
  // tells those who wait to start that they may leave.
  bool queue_is_finished(Nanoseconds now, WakeTime& wake);

  // Busy workers hold the sockets until they are done: without this nobody serves who comes in, and the next
  // daemon cannot bind their addresses. Who is in a queue hears of it now: of TCP the kernel resets them, of a Unix
  // socket it would with the last copy.
  void give_up_sockets();

 private:
  enum class Course { kServing, kDraining, kEnding };
  bool somebody_joins(Nanoseconds now);

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  uint32_t own_sockets_;
  Course course_ = Course::kServing;
  Nanoseconds until_ = kNever;
  uint64_t finish_ = 0;
  Nanoseconds queue_ends_ = 0;  // until then what waits in the accept queues of `finish_` is served
  // Until then who is still shaking hands is waited for; somebody was, until the next look.
  Nanoseconds handshakes_end_ = 0, look_at_handshakes_ = 0;
};

}  // namespace preforkd
