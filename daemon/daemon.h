// The daemon: owns the listen sockets, the configuration, the pools, the control processes, the log process and the
// conversation with systemd. It runs no handler code and never reads memory that a worker can write.
//
// This class starts its parts, in order, and puts them together: each is told of what concerns it, and knows of the others
// what its constructor is given. How it ends: daemon/stop.h.
#pragma once

#include <string>
#include <vector>

#include "base/loop.h"
#include "conf/load.h"
#include "daemon/children.h"
#include "daemon/control_processes.h"
#include "daemon/log_link.h"
#include "daemon/lost_files.h"
#include "daemon/moves.h"
#include "daemon/paths.h"
#include "daemon/pool_set.h"
#include "daemon/reload.h"
#include "daemon/service_status.h"
#include "daemon/stop.h"
#include "daemon/upgrade.h"

namespace preforkd {

class Daemon final : private PoolOwner {
 public:
  // `file` "": the built-in default.
  Daemon(const Paths& paths, const std::string& file, LoadedSettings loaded);
  ~Daemon();

  // The start-up sequence, in this order. Each throws SysError or ConfigError.
  void catch_signals();
  void start_log();  // from here on log() speaks through preforkd-log
  // `troubles`: by pool, why it cannot run, or "". As long as one pool is well, or lacks nothing but an address that may
  // be had later, another's trouble, with its addresses too, is that pool's alone: it starts degraded.
  void open_sockets(std::vector<InheritedSocket> inherited,
                    const std::vector<std::string>& troubles);
  void start_pools();
  void start_control();

  // Instead of these three, in the image that takes over from another in the same process. Throws before anything
  // was changed that the old image could not take over again.
  void take_over(const DaemonRecord& record);

  bool run();  // until everything has ended; false: the start had failed

 private:
  void on_pool_changed(const std::string& name) override;
  std::optional<std::vector<pid_t>> unclaimed_children() override { return children_.unclaimed(); }
  void divide_children();
  void on_signals();
  void show_status();
  DaemonInfo info() const;

  // Control asks: daemon/requests.cc.
  void on_request(const Request& request, std::string bytes);
  void on_request(const Request& request, Pool& pool);
  void set_limits(const Request& request, Pool& pool);

  // Over an upgrade in place: daemon/daemon_takeover.cc.
  std::string obstacle_to_upgrade() const;
  DaemonRecord record(uint32_t asked_by) const;
  void take_over_pools(const DaemonRecord& record, Listeners& all);
  void taken_over(const DaemonRecord& record);

  struct ToStart {
    PoolPlan plan;
    std::string trouble;
  };

  const Paths paths_;
  LoadedSettings in_force_;
  Nanoseconds started_;
  EventLoop loop_;
  LogLink log_;  // outlives the pipes of all others
  UniqueFd signals_;
  PoolSet pools_;
  ServiceStatus service_;
  ControlProcesses control_;
  Children children_;
  AddressMoves moves_;
  LostFiles lost_files_;
  Reload reload_;
  Upgrade upgrade_;
  Stop stop_;
  std::vector<ToStart> to_start_;  // until start_pools()
};

}  // namespace preforkd
