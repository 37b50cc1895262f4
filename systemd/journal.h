// The daemon's log with fields, so that `journalctl PREFORKD_POOL=echo` finds what concerns one
// pool:
//
//   MESSAGE            what stderr would have shown, pool and worker in front
//   PRIORITY           syslog's number
//   PREFORKD_POOL      the pool, if the line concerns one
//   PREFORKD_WORKER    the worker's pid, if it concerns one
//   MESSAGE_ID         the kind of event, if it is one (base/event.h)
//   SYSLOG_IDENTIFIER  preforkd
#pragma once

#include "base/log.h"

namespace preforkd {

// Whether the daemon's lines belong there: descriptor 2 leads to the journal, and its socket for
// fields can be reached from where this process runs.
bool journal_takes_fields();

// The sink (base/log.h). What the journal refuses goes to stderr, as log_to_stderr() writes it.
void log_to_journal(const LogLine& line);

}  // namespace preforkd
