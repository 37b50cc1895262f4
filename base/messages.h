// What the processes of one preforkd say to each other, as fixed-size typed messages: towards the less trusted on
// SOCK_SEQPACKET pairs (base/channel.h), towards the daemon through pipes (base/message_pipe.h). Both ends speak the same
// protocol (base/protocol.h): the daemon starts the programs of its own version, or of one before, over an upgrade in place. A
// receiver checks the size and the type of each message and treats anything else as the other end having gone mad (it
// closes the channel).
#pragma once

#include <cstdint>

#include "base/event.h"
#include "base/limits.h"

namespace preforkd {

inline constexpr uint32_t kPoolNameMax = 32;  // characters, without the NUL

// --- daemon and supervisor -------------------------------------------------------------------
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

// --- daemon and control ----------------------------------------------------------------------
// Daemon → control. Every datagram begins with its kind.
enum class ControlNews : uint32_t {
  kDaemon = 1,  // ControlNewsHeader, then a JSON object: what is true of the daemon
  kPool,     // ControlNewsHeader, then a JSON object: what is true of one pool but does not lie in
             // shared memory; then `base_size` opaque bytes: the totals of its closed generations,
             // as control itself handed them in (none: no generation was closed yet)
  kSegment,  // SegmentNews, with the segment's read-only descriptor (SCM_RIGHTS)
  kAnswer,   // Answer
  kPing,     // Ping: say kPong
};

struct ControlNewsHeader {
  ControlNews kind{};
  uint32_t json_size = 0;
  uint32_t base_size = 0;
  uint32_t reserved = 0;
};

struct SegmentNews {
  ControlNews kind = ControlNews::kSegment;
  uint32_t generation = 0;
  char pool[kPoolNameMax + 1] = {};
  char reserved[3] = {};
};

struct Answer {
  ControlNews kind = ControlNews::kAnswer;
  uint32_t id = 0;      // of the request
  uint32_t status = 0;  // HTTP: 200, or 403, 404, 409, 503 with the reason in `text`
  char text[4096] = {};
};

struct Ping {
  ControlNews kind = ControlNews::kPing;
};

// Control → daemon. The daemon trusts none of it: it checks every field again.
enum class ControlAsk : uint32_t {
  kLimits = 1,  // `limits` where `set` says so; after `for_ns`, if not 0, back to what they were
  kDrain,
  kResume,
  kRecycle,
  kReload,
  kStop,
  kUpgrade,
  kPong,    // it is not hanging; `set`: clients that it has just now
  kTotals,  // a Request, then opaque bytes: the totals of `pool` up to and including generation `id`,
  // which the daemon had said was over; the daemon keeps them and hands them to every control. `set` 1: its
  // last words, with all that it has read of `pool`; of use to a daemon whose next control cannot read that
};

enum LimitBit : uint32_t {
  kSetMin = 1,
  kSetMax = 2,
  kSetMinSpare = 4,
  kSetMaxSpare = 8,
  kSetShrinkAfter = 16
};

struct Request {
  ControlAsk ask{};
  uint32_t id = 0;
  uint32_t set = 0;  // LimitBit
  uint32_t reserved = 0;
  Limits limits{};
  Nanoseconds for_ns = 0;
  char pool[kPoolNameMax + 1] = {};
  char reserved2[7] = {};
};

// --- daemon and log --------------------------------------------------------------------------
// Daemon → log. Every datagram begins with its kind.
enum class LogNews : uint32_t {
  kLine = 1,  // LogNewsLine, then the text
  kPipe,      // LogNewsPipe, with the end to read: from now on read what comes there
  kOver,  // LogNewsPipe, without: nobody of ours has that pipe any more. Read what is there, close it
  kRetire,  // read no pipe any more, write what was read, and end: another one goes on
  kPing,    // say LogPong
};

struct LogNewsLine {
  LogNews kind = LogNews::kLine;
  int32_t level = 0;
  int32_t worker = 0;
  Event event{};
  uint32_t lost = 0;  // lines before this one that did not fit the channel
  char pool[kPoolNameMax + 1] = {};
  char reserved[3] = {};
};

struct LogNewsPipe {
  LogNews kind{};
  uint32_t id = 0;                   // the daemon's number of the pipe
  char pool[kPoolNameMax + 1] = {};  // ""; control's
  char reserved[3] = {};
};

struct LogSignal {
  LogNews kind{};  // kRetire, kPing
};

// Log → daemon.
struct LogPong {
  uint32_t reserved = 0;
};

}  // namespace preforkd
