// What the closer does (supervisor/closer.h), in a process of its own: one thread, one epoll instance, and nothing to do while
// it has no connection that is over.
//
// A connection that is over is read, and what comes is thrown away, until its client ends it or resets it; until 5 s have
// gone by without a byte; until 30 s in all; or until 64 MiB. The first three are what nginx has (lingering_timeout 5s,
// lingering_time 30s); the last one is for who sends as fast as can be: it is more than a proxy has under way, and
// costs a tenth of a second of a processor. Times are looked at each half second; those in which this process stood still
// (base/standstill.h) do not count.
//
// A connection that a program has, is looked at when the supervisor says that it has reaped that process:
//   The client has ended its half, and nothing is unread, or has reset it; or the program wanted a reset:
//   the copy is closed, and that was the end.
//   Somebody is left in the program's process group (kill(-group, 0) finds him): he may serve it on. The copy is closed
//   without a word. (A pid is not used again while a group has it for its number. One that is used again by now is taken
//   for such a one, which errs on the side of a plain close.)
//   Else writing is shut down, and the connection is one that is over.
//   A process that left the group (setsid) is not found: it can read on, and write no more.
//
//   worker                  supervisor               closer
//   second pair: its socket
//   exec ... exit
//                           reaps it
//                           first pair: pid ended
//                                                    reads the first pair, and the second one up to that pid
// So the socket of who has ended is there when that is said. A closer killed between the two reads leaves a socket in the
// second pair of which nothing will be said any more: the next one reads all that is there first of all, and asks of each
// whether its process is there yet. Killed at any other moment, it takes with it what it had.
//   The supervisor killed: nobody says what has ended. So all copies of programs that run are closed, and those that come
//   yet as they come: those programs end by a plain close.
//
// It holds at most 4096 connections, or a bit less than its limit of descriptors allows. Beyond that the one that has
// lingered longest is closed, and if none lingers that one which came last.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "worker/closing.h"

namespace preforkd {

// One message, with what came along.
struct Received {
  enum Kind { kMessage, kNothing, kEnd };
  Kind kind = kNothing;
  ClosingMessage message;
  UniqueFd connection;  // of a message that is none of ours it may be missing, or be anything

  static Received from(int end);  // does not wait
};

// Whatever SO_LINGER says. (Who wants a reset is left that.)
void make_close_not_wait(int connection);

// Of a connection that is over.
struct LingeringBounds {
  Nanoseconds silence = 5 * kSecond, silence_at_end = 1 * kSecond;  // at the end: after SIGTERM
  Nanoseconds in_all = 30 * kSecond;
  uint64_t bytes = uint64_t{64} << 20;
  Nanoseconds look_each = 500 * kMillisecond;
  uint32_t connections = 4096;
};

class Lingering {
 public:
  // The closer's ends of the two pairs, borrowed; the second one may be -1. (Other bounds: tests.)
  Lingering(int first, int second, pid_t supervisor, const LingeringBounds& bounds = {});

  // Until there is nobody who could send anything, and it has nothing more; or until SIGTERM, and it has nothing more.
  // In a process whose signals are all blocked.
  void run();

 private:
  struct Over {
    UniqueFd fd;  // closed: nothing is there
    uint64_t bytes = 0;
    Nanoseconds began_at = 0, heard_at = 0;
  };

  bool is_done() const;
  void wait(Nanoseconds until);
  bool receive();
  void read_lent(pid_t up_to);
  void read_all_lent();
  void take_lent(Received received);
  void program_ended(pid_t pid, bool is_asked);
  void let_all_go();
  bool make_room();
  void linger(UniqueFd connection);
  void read_on(int fd);
  void look_at_times();
  void give_time(Nanoseconds length);
  void drop(int fd);

  const int first_, second_;
  const pid_t supervisor_;
  const LingeringBounds bounds_;
  const UniqueFd epoll_;
  const std::unique_ptr<char[]> thrown_away_;  // untouched until something comes
  std::vector<Over> over_;                     // by their descriptors
  uint32_t over_count_ = 0;
  std::unordered_map<pid_t, UniqueFd> lent_;
  uint32_t most_ = 0;
  bool is_on_its_own_ = false;  // the supervisor has died
  bool nobody_sends_ = false, nothing_waits_ = false;
  Nanoseconds now_ = 0, look_at_ = kNever;
};

}  // namespace preforkd
