// What the daemon and a supervisor say to each other, as fixed-size typed messages: orders on a SOCK_SEQPACKET pair
// (ipc/channel.h), reports through a pipe (ipc/message_pipe.h). Both ends speak the same protocol (ipc/protocol.h): the daemon
// starts supervisors of its own version, or goes on with those of one before, over an upgrade in place. A receiver checks the
// size and the type of each message and treats anything else as the other end having gone mad (it closes the channel).
#pragma once

#include <cstdint>

#include "base/event.h"
#include "base/limits.h"

namespace preforkd {

// Daemon → supervisor. Each order is idempotent; it is repeated each second until its number is
// acknowledged, and a supervisor that stays silent for 5 s is replaced.
enum class OrderType : uint32_t {
  kLimits = 1,  // work by `limits` from now on
  kDrain,       // stop accepting, let busy workers finish for at most `drain`, then exit;
                // what waits on the sockets of `finish` already is served first
  kStop,        // end every worker now (TERM, then KILL), then exit
  kReadable,    // the watched listen sockets have a connection waiting
  kServe,       // the trial is over: accept
  kLookAgain,   // who was waiting on these sockets is gone: let somebody look at what waits
  kPing,        // say something (sent only while a watchdog asks)
};

struct Order {
  OrderType type{};
  uint32_t number = 0;
  Limits limits{};
  Nanoseconds drain = 0;
  uint64_t finish = 0;  // bit i: the i-th listen socket, of the first 64
};

// Supervisor → daemon. Sent without blocking: a report that does not fit is dropped, and the number
// of lost log lines is told with the next one that fits.
enum class ReportType : uint32_t {
  kPreloaded = 1,  // it reads its channel from now on; workers are being started
  kReady,          // the first `min` workers are idle: clients are served
  kFailed,         // it cannot run (`text` says why) and exits
  kDegraded,       // it is smaller than it should be: `text` says why; `number`: workers that serve
  kRecovered,      // a worker has shown since that it can serve: the breaker is reset
  kQuiet,          // draining, and nobody accepts any more: the listeners may be shut down;
                   // `number`: connections that are still being served
  kDrained,        // every worker is gone; the supervisor exits
  kAck,            // order `number` was understood; `level`: how many workers there are
  kWorkerFailed,   // a worker died, and not of a connection, or while others serve: `text` says how
  kWatchListen,    // tell me (kReadable) when a connection waits: nobody is idle to take it
  kLog,            // a line for the log: `level`, `pid` of the worker or 0, `event`, `text`
};

struct Report {
  ReportType type{};
  uint32_t number = 0;
  int32_t level = 0;
  int32_t pid = 0;
  Event event{};
  char text[492] = {};
};

}  // namespace preforkd
