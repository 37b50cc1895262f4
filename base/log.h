// The log: one line an event, verb object reason. A process sets its sink once, in main: the daemon
// writes to stderr or the journal, a supervisor hands its lines to the daemon, a worker writes to
// descriptor 2 (it has no channel). Nothing here blocks but a write to stderr.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "base/event.h"

namespace preforkd {

// The numbers are syslog's, as journald and sd-daemon(3) use them.
enum class LogLevel : int { kError = 3, kWarning = 4, kNotice = 5, kInfo = 6, kDebug = 7 };

struct LogLine {
  LogLevel level;
  std::string_view pool;  // empty: none in particular
  pid_t worker;           // 0: none
  std::string_view text;
  Event event = Event::kNone;
};

using LogSink = void (*)(const LogLine&);

void set_log_sink(LogSink sink);
void set_log_level(LogLevel level);  // lines less important than this are not made
bool is_logged(LogLevel level);
bool log_level_from_name(std::string_view name,
                         LogLevel& level);  // error warning notice info debug

void log(const LogLine& line);
inline void log_error(std::string_view text, Event event = Event::kNone) {
  log({LogLevel::kError, {}, 0, text, event});
}
inline void log_warning(std::string_view text, Event event = Event::kNone) {
  log({LogLevel::kWarning, {}, 0, text, event});
}
inline void log_notice(std::string_view text, Event event = Event::kNone) {
  log({LogLevel::kNotice, {}, 0, text, event});
}
inline void log_info(std::string_view text, Event event = Event::kNone) {
  log({LogLevel::kInfo, {}, 0, text, event});
}
inline void log_debug(std::string_view text) { log({LogLevel::kDebug, {}, 0, text}); }

// What a person reads of a line: "pool echo: worker 4242: text".
std::string log_text(const LogLine& line);

// Whether descriptor 2 is the stream that systemd connected to the journal ($JOURNAL_STREAM).
bool stderr_is_journal();

// The sink that every process begins with: "preforkd: " and log_text() on descriptor 2, in one
// write. Where descriptor 2 is the journal, with sd-daemon's "<6>" in front and no name.
void log_to_stderr(const LogLine& line);

}  // namespace preforkd
