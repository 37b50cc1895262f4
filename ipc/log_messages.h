// What the daemon and the log process say to each other, as typed messages on a SOCK_SEQPACKET pair (ipc/channel.h) one way and
// through a pipe (ipc/message_pipe.h) the other. Both ends are of one version (ipc/protocol.h).
#pragma once

#include <cstdint>

#include "base/event.h"
#include "ipc/pool_name.h"

namespace preforkd {

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
