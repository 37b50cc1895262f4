#include "base/log.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdio>
#include <cstdlib>

namespace preforkd {
namespace {

LogSink sink = log_to_stderr;
LogLevel threshold = LogLevel::kInfo;
constexpr int kPatience = 1000;  // ms, of log_to_stderr()

// Bytes of the UTF-8 character that it begins with; 0: it begins with none.
size_t character_at(std::string_view text, uint32_t& code) {
  const auto first = static_cast<unsigned char>(text[0]);
  const size_t size = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : 4;
  if (size == 4 && first >> 3 != 30) return 0;
  if (text.size() < size) return 0;
  code = size == 1 ? first : first & (0x7fu >> size);
  for (size_t i = 1; i < size; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if (next >> 6 != 2) return 0;
    code = code << 6 | (next & 0x3fu);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  return code >= kLeast[size] ? size : 0;
}

bool is_control(uint32_t code) {
  return (code < ' ' && code != '\t') || (code >= 0x7f && code <= 0x9f);
}

// Without waiting for whoever has to read before, or for `patience` ms.
void write_soon(const std::string& out, int patience) {
  struct stat s {};
  if (fstat(2, &s) < 0) return;
  if (!S_ISREG(s.st_mode)) {
    pollfd p{2, POLLOUT, 0};
    if (poll(&p, 1, patience) != 1) return;
    const iovec part{const_cast<char*>(out.data()), out.size()};
    if (pwritev2(2, &part, 1, -1, RWF_NOWAIT) >= 0 || errno == EAGAIN) return;
  }
  // A file; or a kernel that cannot say "not now" of this, and there is room: who comes in between is rare.
  [[maybe_unused]] ssize_t ignored = write(2, out.data(), out.size());
}

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

std::string without_controls(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    uint32_t code = 0;
    size_t size = character_at(text, code);
    const bool is_byte = size == 0;
    if (is_byte) code = static_cast<unsigned char>(text[size++]);
    if (is_control(code))
      clean += '?';
    else
      clean.append(text.substr(0, size));
    text.remove_prefix(size);
  }
  return clean;
}

std::string log_text(const LogLine& line) {
  std::string text;
  if (!line.pool.empty()) text.append("pool ").append(line.pool).append(": ");
  if (line.worker) text += "worker " + std::to_string(line.worker) + ": ";
  text.append(line.text.substr(0, kMostOfLine));
  if (line.text.size() > kMostOfLine)
    text += "... (" + std::to_string(line.text.size() - kMostOfLine) + " bytes more)";
  return without_controls(text);
}

bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  unsigned long long device = 0, inode = 0;
  struct stat s {};
  return stream && std::sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(2, &s) == 0 &&
         s.st_dev == device && s.st_ino == inode;
}

std::string stderr_text(const LogLine& line, bool journal) {
  std::string out =
      journal ? "<" + std::to_string(static_cast<int>(line.level)) + ">" : "preforkd: ";
  if (line.level == LogLevel::kError && !journal) out += "error: ";
  if (line.level == LogLevel::kWarning && !journal) out += "warning: ";
  return out + log_text(line) + "\n";
}

void log_to_stderr(const LogLine& line) {
  write_soon(stderr_text(line, stderr_is_journal()), kPatience);
}

void log_to_stderr_at_once(const LogLine& line) {
  write_soon(stderr_text(line, stderr_is_journal()), 0);
}

void log_to_pipe(const LogLine& line) {
  struct stat s {};
  if (fstat(2, &s) < 0) return;
  if (!S_ISFIFO(s.st_mode)) return write_soon(stderr_text(line, false), 0);
  std::string out(1, kOwnLine);
  out += std::to_string(std::clamp(static_cast<int>(line.level), 0, 7)) +
         std::to_string(line.worker) + " ";
  out += log_text({line.level, line.pool, 0, line.text}) + "\n";
  static_assert(kMostOfLine + 200 < PIPE_BUF, "a line is written whole or not at all");
  write_soon(out, 0);
}

bool own_line_from(std::string_view line, LogLine& into) {
  if (line.size() < 4 || line[0] != kOwnLine || line[1] < '0' || line[1] > '7') return false;
  pid_t worker = 0;
  const char* end = line.data() + line.size();
  const auto read = std::from_chars(line.data() + 2, end, worker);
  if (read.ec != std::errc() || worker < 0 || read.ptr == end || *read.ptr != ' ') return false;
  into = {static_cast<LogLevel>(std::max(line[1] - '0', static_cast<int>(LogLevel::kError))),
          {},
          worker,
          line.substr(static_cast<size_t>(read.ptr + 1 - line.data()))};
  return true;
}

}  // namespace preforkd
