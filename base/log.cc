#include "base/log.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace preforkd {
namespace {

LogSink sink = log_to_stderr;
LogLevel threshold = LogLevel::kInfo;

}  // namespace

void set_log_sink(LogSink new_sink) { sink = new_sink; }
void set_log_level(LogLevel level) { threshold = level; }

bool is_logged(LogLevel level) { return level <= threshold; }

bool log_level_from_name(std::string_view name, LogLevel& level) {
  static constexpr struct {
    std::string_view name;
    LogLevel level;
  } kLevels[] = {{"error", LogLevel::kError},
                 {"warning", LogLevel::kWarning},
                 {"notice", LogLevel::kNotice},
                 {"info", LogLevel::kInfo},
                 {"debug", LogLevel::kDebug}};
  for (const auto& row : kLevels) {
    if (row.name != name) continue;
    level = row.level;
    return true;
  }
  return false;
}

void log(const LogLine& line) {
  if (line.level <= threshold) sink(line);
}

std::string log_text(const LogLine& line) {
  std::string text;
  if (!line.pool.empty()) text.append("pool ").append(line.pool).append(": ");
  if (line.worker) text += "worker " + std::to_string(line.worker) + ": ";
  text.append(line.text);
  // One line, and nothing that a terminal would obey: a client may have chosen parts of it.
  for (char& c : text)
    if ((c >= 0 && c < ' ' && c != '\t') || c == 0x7f) c = '?';
  return text;
}

bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  unsigned long long device = 0, inode = 0;
  struct stat s {};
  return stream && std::sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(2, &s) == 0 &&
         s.st_dev == device && s.st_ino == inode;
}

void log_to_stderr(const LogLine& line) {
  static const bool journal = stderr_is_journal();
  std::string out =
      journal ? "<" + std::to_string(static_cast<int>(line.level)) + ">" : "preforkd: ";
  if (line.level == LogLevel::kError && !journal) out += "error: ";
  if (line.level == LogLevel::kWarning && !journal) out += "warning: ";
  out.append(log_text(line)).append("\n");
  // One write, so that lines of several processes do not mix; a log that cannot be written is lost.
  [[maybe_unused]] ssize_t ignored = write(2, out.data(), out.size());
}

}  // namespace preforkd
