// What the daemon tells systemd (sd_notify(3)), and when systemd wants to hear from it. Owned by
// the daemon's main; no other process may call it, since the unit says NotifyAccess=main. Without
// $NOTIFY_SOCKET (a terminal, a container) every call here does nothing.
#pragma once

#include <string>
#include <string_view>

#include "base/clock.h"
#include "systemd/notify_socket.h"

namespace preforkd {

// The variables that systemd sets for the daemon alone. The daemon keeps them, because an upgrade
// in place needs them; whatever it starts must not see them, or a program that speaks to systemd
// itself would take the daemon's place.
inline constexpr const char* kSystemdVariables[] = {
    "NOTIFY_SOCKET", "WATCHDOG_USEC",  "WATCHDOG_PID", "LISTEN_FDS",
    "LISTEN_PID",    "LISTEN_FDNAMES", "FDSTORE",
};

class Notify {
 public:
  // `loop` sends what systemd does not read at once (systemd/notify_socket.h); null: the next message does.
  explicit Notify(EventLoop* loop = nullptr) { socket_.retry_by(loop); }
  ~Notify() { socket_.retry_by(nullptr); }
  Notify(const Notify&) = delete;
  Notify& operator=(const Notify&) = delete;

  void ready(std::string_view status);  // also the end of a reload, whether it succeeded or not
  void reloading(std::string_view status);
  void stopping(std::string_view status);

  // The one line that `systemctl status` shows. Sent only when it differs from the last one.
  void status(std::string_view text);

  // Starting, reloading or stopping may take this much longer, counted from now. It never shortens anything.
  void extend_timeout(Nanoseconds more);

  // How often watchdog() must be called at the least; 0: never. Half of what is due is a good
  // rhythm.
  static Nanoseconds watchdog_interval();
  void watchdog();

  bool all_is_sent() const { return socket_.all_is_sent(); }

 private:
  void send_with_status(std::string_view state, std::string_view text);

  NotifySocket& socket_ = NotifySocket::of_process();
  std::string last_status_;
};

}  // namespace preforkd
