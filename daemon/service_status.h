// What the daemon tells systemd, and with it a person who asks `systemctl status`.
#pragma once

#include <string>

#include "conf/settings.h"
#include "daemon/pool_set.h"
#include "systemd/notify.h"

namespace preforkd {

class ServiceStatus {
 public:
  ServiceStatus(EventLoop& loop, const PoolSet& pools) : loop_(loop), pools_(pools) {}

  // The one line, while nothing else is under way than starting. READY as soon as every pool has had its chance
  // (timeouts.start): one that cannot run, or hangs, does not keep the others waiting. `is_start`: nobody has asked for a
  // reload yet. False: the start has failed; said once.
  bool show(bool is_start, const std::string& control_socket);
  bool start_has_failed() const { return start_failed_; }
  void show(const std::string& status) { notify_.status(status); }

  void begin_reload(const std::string& what);
  // READY is to end it, whether it succeeded or not. `refusal`: why not, as a sentence; or "".
  void end_reload(const std::string& refusal);

  // `patience`: for connections in service; 0: they are ended at once.
  void say_stopping(Nanoseconds patience);
  void show_stopping() { notify_.status(stopping_text()); }

  // As long as timeouts.start allows, which bounds each worker's start, and a reload's trials.
  void extend_while_starting(const Settings& settings);
  // systemd waits until then, at the latest; READY ends it. A daemon with nothing under way is not woken for this.
  void extend_until(Nanoseconds deadline);
  void feed_watchdog();  // from now on

  bool all_is_sent() const { return notify_.all_is_sent(); }
  // Over an upgrade in place.
  const std::string& refusal() const { return refusal_; }
  bool has_said_ready() const { return said_ready_; }
  void resume(const std::string& refusal, bool said_ready);

 private:
  std::string pools_text(size_t& running, size_t& starting) const;
  std::string stopping_text() const;
  void extend();

  EventLoop& loop_;
  const PoolSet& pools_;
  Notify notify_{&loop_};
  bool said_ready_ = false;
  bool start_failed_ = false;
  std::string refusal_;  // of the last reload or recycle
  bool is_stopping_ = false;
  std::string end_time_;          // when connections are ended; "": at once
  Nanoseconds extend_until_ = 0;  // 0: systemd need not wait for anything
  EventLoop::Timer extend_timer_, watchdog_timer_;
};

}  // namespace preforkd
