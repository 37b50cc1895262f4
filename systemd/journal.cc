#include "systemd/journal.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>

namespace preforkd {
namespace {

constexpr sockaddr_un kSocket{AF_UNIX, "/run/systemd/journal/socket"};

}  // namespace

Journal::Journal() {
  if (!stderr_is_journal()) return;
  socket_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (socket_.is_open() &&
      connect(socket_.get(), reinterpret_cast<const sockaddr*>(&kSocket), sizeof kSocket) < 0)
    socket_.reset();
}

bool Journal::send(const LogLine& line, const std::string& message) const {
  std::string fields =
      "SYSLOG_IDENTIFIER=preforkd\nPRIORITY=" + std::to_string(static_cast<int>(line.level)) +
      "\nMESSAGE=" + message + "\n";
  if (!line.pool.empty()) fields += "PREFORKD_POOL=" + std::string(line.pool) + "\n";
  if (line.worker) fields += "PREFORKD_WORKER=" + std::to_string(line.worker) + "\n";
  if (line.event != Event::kNone)
    fields += std::string("MESSAGE_ID=") + event_id(line.event) + "\n";
  for (bool again = true;;) {
    if (::send(socket_.get(), fields.data(), fields.size(), MSG_NOSIGNAL) >= 0) return true;
    if (errno == EINTR) continue;
    // The journal was restarted, and has not kept its socket.
    if (!again ||
        connect(socket_.get(), reinterpret_cast<const sockaddr*>(&kSocket), sizeof kSocket) < 0)
      return false;
    again = false;
  }
}

}  // namespace preforkd
