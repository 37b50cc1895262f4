// What the daemon and a control process say to each other, as typed messages: news on a SOCK_SEQPACKET pair (ipc/channel.h),
// requests through a pipe (ipc/message_pipe.h). Both ends are of one version (ipc/protocol.h). Control takes anything that it does
// not expect as the daemon having gone mad, and ends; the daemon trusts none of what control says.
#pragma once

#include <cstdint>

#include "base/limits.h"
#include "ipc/pool_name.h"

namespace preforkd {

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
  kPong,    // it is not hanging; `set`: clients that it has just now, or that wait to be accepted
  kTotals,  // a Request, then opaque bytes: the totals of `pool` up to and including generation `id`,
  // which the daemon had said was over; the daemon keeps them and hands them to every control. `set` 1: its
  // last words, with all that it has read of `pool`; of use to a daemon whose next control cannot read that
};

struct Request {
  ControlAsk ask{};
  uint32_t id = 0;
  uint32_t set = 0;  // of kLimits: limit_bit()
  uint32_t reserved = 0;
  Limits limits{};
  Nanoseconds for_ns = 0;
  char pool[kPoolNameMax + 1] = {};
  char reserved2[7] = {};
};

}  // namespace preforkd
