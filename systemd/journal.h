// Lines for the journal with fields, so that `journalctl PREFORKD_POOL=echo` finds what concerns one pool:
//
//   MESSAGE            what stderr would have shown, pool and worker in front; of a program: what it wrote
//   PRIORITY           syslog's number
//   PREFORKD_POOL      the pool, if the line concerns one
//   PREFORKD_WORKER    the worker's pid, if it concerns one
//   MESSAGE_ID         the kind of event, if it is one (base/event.h)
//   SYSLOG_IDENTIFIER  preforkd
//
// Called by preforkd-log alone, which may wait for the journal; nobody waits for preforkd-log. By the journal's own
// protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), a datagram: for these few fields libsystemd, and what that
// brings, would be most of the process.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/log.h"

namespace preforkd {

class Journal {
 public:
  // Open if descriptor 2 leads to the journal, and its socket for fields can be reached from here.
  Journal();
  bool is_open() const { return socket_.is_open(); }

  // `message`: one line. False: the journal does not take it; who asks may have more luck with stderr.
  bool send(const LogLine& line, const std::string& message) const;

 private:
  UniqueFd socket_;
};

}  // namespace preforkd
