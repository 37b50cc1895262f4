// The log: one line an event, verb object reason. A process sets its sink once, in main. The daemon hands its lines to
// preforkd-log (daemon/log_link.h), which alone writes to the daemon's stderr or the journal; a supervisor hands its
// lines to the daemon. Supervisors, workers, programs and control have a pipe to preforkd-log as descriptor 2: what
// they have no channel for is written there (log_to_pipe()). Nothing here waits for who reads.
#pragma once

#include <sys/types.h>

#include <cstddef>
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

// Bytes of a line's text at the most; what is beyond is counted in its place.
inline constexpr size_t kMostOfLine = 3500;

// One line, and nothing that a terminal would obey, '?' instead: a client may have chosen parts of it. Those are the
// control characters but the tab, those of C1 (U+0080 to U+009F) too, and their bytes where they are not UTF-8.
std::string without_controls(std::string_view text);

// What a person reads of a line: "pool echo: worker 4242: text". Printable, and cut.
std::string log_text(const LogLine& line);

// Whether descriptor 2 is the stream that systemd connected to the journal ($JOURNAL_STREAM).
bool stderr_is_journal();

// How descriptor 2 has a line: "preforkd: " and log_text(). The journal's stream has sd-daemon's "<6>" in front and no
// name.
std::string stderr_text(const LogLine& line, bool journal);

// The sink that every process begins with, in one write. Not for who shares descriptor 2 with others: it waits for a
// second at the most.
void log_to_stderr(const LogLine& line);
// The same without waiting: lost if there is no room just now.
void log_to_stderr_at_once(const LogLine& line);

// The sink of a process whose descriptor 2 is a pipe to preforkd-log, and of its children: one write, which does not
// wait. A line that does not fit is lost; the reader says so of its own buffers only. If descriptor 2 is something else
// by now (who serves may have put a file there) it is as log_to_stderr() writes it.
//
// The form on the pipe: kOwnLine, the level as a digit, the pid of the worker or 0, a space, the text, a line feed.
void log_to_pipe(const LogLine& line);

// That form read: nothing if it is not such a line. The text points into it. What comes in a pipe is not trusted.
inline constexpr char kOwnLine = '\001';
bool own_line_from(std::string_view line, LogLine& into);

}  // namespace preforkd
