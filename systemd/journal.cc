#include "systemd/journal.h"

#include <sys/uio.h>
#include <unistd.h>

#include <string>

// The place in the source would be this file for every line.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

namespace preforkd {

// sd_journal_sendv() reports success when the socket does not exist: so it is looked for
// beforehand.
bool journal_takes_fields() {
  return stderr_is_journal() && access("/run/systemd/journal/socket", W_OK) == 0;
}

void log_to_journal(const LogLine& line) {
  const std::string fields[] = {
      "MESSAGE=" + log_text(line),
      "PRIORITY=" + std::to_string(static_cast<int>(line.level)),
      "SYSLOG_IDENTIFIER=preforkd",
      line.pool.empty() ? "" : "PREFORKD_POOL=" + std::string(line.pool),
      line.worker ? "PREFORKD_WORKER=" + std::to_string(line.worker) : "",
      line.event == Event::kNone ? "" : std::string("MESSAGE_ID=") + event_id(line.event),
  };
  iovec parts[std::size(fields)];
  int count = 0;
  for (const std::string& field : fields)
    if (!field.empty()) parts[count++] = {const_cast<char*>(field.data()), field.size()};
  if (sd_journal_sendv(parts, count) < 0) log_to_stderr(line);
}

}  // namespace preforkd
