#include "systemd/notify.h"

#include <systemd/sd-daemon.h>

namespace preforkd {
namespace {

// systemd ignores messages of more than 4096 bytes, and what is not UTF-8.
constexpr size_t kLongest = 2000;

// A line feed would end the status and begin another assignment.
std::string one_line(std::string_view text) {
  std::string line(text);
  if (line.size() > kLongest) {
    size_t end = kLongest;
    while (end > 0 && (line[end] & 0xc0) == 0x80) --end;  // not within a character
    line.replace(end, line.size(), "...");
  }
  for (char& c : line)
    if (c == '\n' || c == '\0') c = ' ';
  return line;
}

}  // namespace

void Notify::send_with_status(std::string_view state, std::string_view text) {
  last_status_ = one_line(text);
  socket_.send(std::string(state) + "\nSTATUS=" + last_status_, NotifySocket::Kind::kEach);
}

void Notify::ready(std::string_view text) { send_with_status("READY=1", text); }
void Notify::stopping(std::string_view text) { send_with_status("STOPPING=1", text); }

// The time stamp is what Type=notify-reload (systemd 253) asks for; older ones ignore it.
void Notify::reloading(std::string_view text) {
  send_with_status("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(monotonic_now() / kMicrosecond),
                   text);
}

void Notify::status(std::string_view text) {
  std::string line = one_line(text);
  if (line == last_status_) return;
  last_status_ = std::move(line);
  socket_.send("STATUS=" + last_status_, NotifySocket::Kind::kStatus);
}

void Notify::extend_timeout(Nanoseconds more) {
  socket_.send("EXTEND_TIMEOUT_USEC=" + std::to_string(more / kMicrosecond),
               NotifySocket::Kind::kExtend);
}

Nanoseconds Notify::watchdog_interval() {
  uint64_t microseconds = 0;
  return sd_watchdog_enabled(0, &microseconds) > 0 ? microseconds * kMicrosecond : 0;
}

void Notify::watchdog() { socket_.send("WATCHDOG=1", NotifySocket::Kind::kWatchdog); }

}  // namespace preforkd
