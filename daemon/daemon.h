// The daemon: owns the listen sockets, the configuration, the pools, the two control processes and the
// conversation with systemd. It runs no handler code and never reads memory that a worker can write.
//
//   running ──TERM, QUIT, stop──▶ finishing ──all pools over──▶ closing ──control gone──▶ run() returns
//      └──────INT────────────────────▲ (a second TERM, or INT: everything is ended at once)
#pragma once

#include <sys/signalfd.h>

#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "conf/load.h"
#include "daemon/control_link.h"
#include "daemon/paths.h"
#include "daemon/pool.h"
#include "systemd/notify.h"

namespace preforkd {

class Daemon final : private PoolOwner {
 public:
  // `file` "": the built-in default.
  Daemon(const Paths& paths, std::string file, LoadedSettings loaded);
  ~Daemon();

  // The start-up sequence, in this order. Each throws SysError or ConfigError.
  void catch_signals();
  void open_sockets(std::vector<InheritedSocket> inherited);
  void start_pools();
  void start_control();

  void run();  // until everything has ended

 private:
  enum class Phase { kRunning, kFinishing, kClosing };

  void on_pool_changed(const std::string& name) override;
  void on_signals();
  void reap();
  void finish();
  void stop_now();
  void close_when_over();
  void end_the_rest();

  // Control asks.
  void on_request(const Request& request, std::string bytes);
  void set_limits(const Request& request, Pool& pool);
  std::string reload();
  std::string reload_trouble(const LoadedSettings& loaded) const;
  void greet(ControlLink& link);
  void tell_daemon_facts();
  void tell_pool_facts(const Pool& pool);

  void notify_state();
  void feed_watchdog();
  Pool* find_pool(const std::string& name);

  const Paths paths_;
  const std::string file_;
  Settings settings_;
  const Nanoseconds started_;
  int64_t control_gid_ = -1;
  uint64_t reloads_ = 0;        // that succeeded
  uint64_t reloads_asked_ = 0;  // those refused, too

  EventLoop loop_;
  Notify notify_;
  UniqueFd signals_;
  std::vector<std::unique_ptr<Pool>> pools_;
  std::vector<std::vector<Listener>> opened_;  // by pool, until start_pools() hands them over
  UniqueFd control_socket_, web_socket_;
  std::string control_path_;                         // to be removed
  std::vector<std::unique_ptr<ControlLink>> links_;  // the full one first
  Phase phase_ = Phase::kRunning;
  bool said_ready_ = false;
  bool ran_ =
      false;  // an error from now on must not end those who serve: they drain without a daemon
  std::vector<pid_t> strangers_;  // children that this process had before
  EventLoop::TimerId end_timer_{}, watchdog_timer_{};
};

// Asks `preforkd-supervisor --check`, as each pool's user, whether its handler or program could run. Adds to
// `errors` as "FILE:LINE: key: reason".
void check_handlers(const Paths& paths, const LoadedSettings& loaded,
                    std::vector<std::string>& errors);

}  // namespace preforkd
