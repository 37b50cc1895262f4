// How a connection ends, whoever has served it: by a lingering close. A plain close() of a socket with input that nobody
// has read, or into which the client still sends, is a reset, and that overtakes the answer: a client, or a proxy before
// it, that sends a body which is not read before the answer is given would see an error instead of the answer.
//
// So writing is shut down first: the client sees the end of the answer. If it has ended its half, and nothing of it is
// unread, that was all. Else the socket goes to the pool's closer (supervisor/closer.h), which reads and throws away what
// comes yet, within bounds; the worker, which waits for nobody, goes on with its next client.
//
// Called by workers of all kinds, each about a connection that it has counted: after a handler's `serve`
// (worker/worker.cc), in preforkd_done() (worker/libpreforkd.cc), before a program is executed; and by the shedder.
//
// The way to the closer is a pair of Unix sockets. All processes of a generation have its one end, the supervisor
// alone keeps the other one, for itself and each closer. What nobody has read yet waits in between; a closer that dies
// takes with it what it had taken out.
//   There is no room (a closer that is held up, or cannot be forked), no such pair, or no descriptor: what has come so
//   far is thrown away, to a bound and without waiting, and the connection is closed: what comes later resets it, as
//   with any server that does not linger.
//   A worker killed after shutdown() and before the socket is in the pair: a plain close, of which the client has the
//   answer's end before it. Killed after that: the closer has the socket.
//
// A copy that a child of a handler keeps can go on reading, and can write no more: shut down is the connection
// itself. (Not if the client had ended its half, and all was read.) Who has switched SO_LINGER on with 0 s wants a
// reset, and gets it; who has shut reading down has said that it wants no more: that ends it at once.
//
// A program (one for each connection) is not there any more when it has ended, so a copy is lent to the closer before
// it is executed, through a second pair, which the closer reads only when there is something to be done: a connection
// costs it no wake-up at its beginning. When the supervisor has reaped the process, it says so in the first pair.
//   Killed between the copy's way to the closer and the exec, or not executed: it is reaped as any other.
//   The second pair is full (hundreds of programs have begun, and none has ended): the closer is told to read it, and this
//   program's end is a plain close. So it is if there is no closer.
// Of a program that does not say that it went well, the supervisor asks whether the client had ended the connection before it
// counts it (shm/outcome.h): nobody else has it any more. It waits for the answer, which comes through the same pair the
// other way, as soon as the closer has its turn.
//   The closer killed meanwhile, or standing still: it waits for 100 ms, counts that one as failed, and does not ask again
//   for a second. An answer that comes too late is about another process than is asked next, and thrown away.
//   A hostile worker can take the answer away, or forge one: figures of its own pool.
// As long as the program lives the closer's copy is one more: a program that closes the connection before it ends does not
// show that to its client. One that shuts it down does.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "base/fd.h"

namespace preforkd {

// In the first pair: `what`; a connection goes along with one that is over. In the second one: the connection of
// a program, which will be that process.
struct ClosingMessage {
  enum What : uint32_t {
    kOver = 0,
    kProgramEnded = 1,
    kProgramFailed = 2,  // the same, and whether its client had ended it is asked
    kLookAtLent = 3,
    kLent = 4,
    kClientEnded = 5,  // the closer's answer, the other way: it had, or
    kClientStayed = 6,
  };
  uint32_t what = kOver;
  pid_t pid = 0;  // of the program, which leads a process group
};

// The ends of both pairs. Without descriptors for one, both of its ends are closed.
struct ClosingPairs {
  struct Pair {
    UniqueFd workers, closers;
    static Pair make();
  };
  Pair first, second;

  explicit ClosingPairs(bool for_programs);
};

// Whether a close of it is a reset because whoever served it wants that: SO_LINGER with 0 s.
bool is_to_be_reset(int connection);

class Closing {
 public:
  // The workers' ends, borrowed. -1: there is none.
  explicit Closing(int first = -1, int second = -1) : first_(first), second_(second) {}

  // The connection is over. Whoever calls closes it next.
  void end(int connection) const;
  // This process is about to become the program that serves it.
  [[gnu::hot]] void lend(int connection) const;
  // The supervisor has reaped that one. False: there is no room just now.
  bool program_ended(pid_t pid) const;
  // The same, of one that has not ended well: whether its client had ended the connection (worker/client_end.h), as the
  // closer answers within 100 ms; nothing: it does not. `when_asked` is called in between.
  std::optional<bool> client_ended_before(pid_t pid, const std::function<void()>& when_asked) const;
  void answer(pid_t pid,
              bool client_ended) const;  // the closer; with its own end of the first pair

 private:
  const int first_, second_;
};

}  // namespace preforkd
