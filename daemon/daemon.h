// The daemon: owns the listen sockets, the configuration, the pools, the two control processes, the log process and
// the conversation with systemd. It runs no handler code and never reads memory that a worker can write.
//
//   running ──TERM, QUIT, stop──▶ finishing ──all pools over──▶ closing ──control, then log gone──▶ run() returns
//      └──────INT────────────────────▲ (a second TERM, or INT: everything is ended at once)
#pragma once

#include <sys/signalfd.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "conf/load.h"
#include "daemon/control_link.h"
#include "daemon/file_watch.h"
#include "daemon/loading.h"
#include "daemon/log_link.h"
#include "daemon/paths.h"
#include "daemon/patience.h"
#include "daemon/pool.h"
#include "ipc/info.h"
#include "systemd/notify.h"

namespace preforkd {

class Daemon final : private PoolOwner {
 public:
  // `file` "": the built-in default.
  Daemon(const Paths& paths, std::string file, LoadedSettings loaded);
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
  bool lacks_web() const;
  UniqueFd listen_for_web();
  void start_web(UniqueFd socket);
  void start_web_later();

  // Instead of these three, in the image that takes over from another in the same process. Throws before anything
  // was changed that the old image could not take over again.
  void take_over(const DaemonRecord& record);

  bool run();  // until everything has ended; false: the start had failed

 private:
  enum class Phase { kRunning, kFinishing, kClosing };

  void on_pool_changed(const std::string& name) override;
  std::optional<std::vector<pid_t>> unclaimed_children() override;
  // But the log process, which goes last. Nothing: it cannot be known just now.
  std::optional<std::vector<pid_t>> children_of_ours() const;
  bool is_of_a_link(pid_t child) const;
  bool any_pool(const std::function<bool(Pool&)>& is_it) const;  // those that leave or come, too
  bool is_of_a_pool(pid_t child) const;
  void on_signals();
  void reap();
  // What a control or log process that has ended has forked: they fork nothing, unless they were taken over.
  struct LeftBy {
    pid_t session;
    EffectiveUser user;
    bool was_killed = false;
  };
  void end_left(LeftBy left);
  void finish();
  void stop_now();
  void close_when_over();
  bool waits_for_predecessor();
  void close();
  void close_log();
  void leave_what_does_not_end();
  void forget_leavers();
  bool may_forget(const Pool& leaver) const;
  std::vector<std::string> shown_pools() const;
  void end_the_rest();

  // Control asks.
  void on_request(const Request& request, std::string bytes);
  void set_limits(const Request& request, Pool& pool);
  std::string resume(Pool& pool);  // why not, or ""

  // A reload, from the file to the last pool that is on trial: daemon/reload.cc.
  using OnReloaded = std::function<void(std::string refusal)>;
  struct Reload {
    std::unique_ptr<Loading> loading;  // until it is loaded
    LoadedSettings loaded;
    std::vector<PoolPlan> plans;               // parallel to loaded.settings.pools
    std::vector<bool> needs_trial;             // likewise
    std::vector<std::unique_ptr<Pool>> added;  // likewise; null where the pool is there already
    std::vector<Pool*> returning;  // likewise; one of leaving_ that is in the file again
    Listeners before;              // of all pools
    Listeners without_file;        // of those that stay
    std::vector<InheritedSocket>
        inherited;        // copies of what no pool has used yet; those that one will are taken out
    UniqueFd web_socket;  // where control.web has changed, or who may ask for it
    bool web_stays = false;        // it is the same address
    bool web_comes_later = false;  // when a pool has let go of its address
    std::string given_up;          // by control.web; "": nothing
    std::string recycled;          // one pool as it is, instead of a file; "": none
    bool restores = false;         // nobody has asked for it: a socket has lost its file
    std::string what;              // for systemd's status
    size_t undecided = 0;          // trials without a verdict
    std::string trouble;           // the first verdict against it
    OnReloaded on_done;

    bool recycles() const { return !recycled.empty(); }
  };
  void reload(const std::string& recycled_pool, OnReloaded on_done, bool restores = false);
  void load();
  void on_loaded(std::vector<std::string> errors);
  BoundEntries bound_entries() const;
  void prepare_reload(Reload& r, std::vector<std::string>& errors);
  bool plan_pools(Reload& r, std::vector<std::string>& errors);
  void prepare_pool(Reload& r, PoolPlan& plan, std::vector<std::string>& errors);
  static bool is_dropped(const Reload& r, const std::string& address);
  void prepare_web(Reload& r, std::vector<std::string>& errors);
  void start_trials();
  void on_verdict(size_t index, const std::string& reason, const std::string& key);
  void commit_reload();
  void commit_pools(Reload& r);
  void commit_web(Reload& r);
  void settle_in_time();
  void look_whether_settled();
  void finish_settling();
  void roll_back(const std::string& reason);
  Pool& pool_of(const Reload& r, size_t index);
  void end_reload(OnReloaded on_done, const std::string& refusal, const std::string& recycled = "");

  // Addresses that get another user: daemon/moves.cc.
  struct NotHad {          // at the start
    std::string reason;    // "": all addresses are had
    bool may_come = true;  // somebody else has what is missing, or this machine has not (yet)
  };
  static NotHad listen_at_start(const Listeners& opened, const PoolSettings& pool);
  static std::string not_served(const std::string& reason);
  void begin_moves(const Listeners& before);
  void wait_for_addresses();
  void move_soon();
  void move_addresses();
  std::string move_addresses_of(Pool& pool, bool by_force);

  // Files of Unix sockets that are removed: daemon/lost_files.cc.
  void watch_files();
  void watch_control();
  Pool* pool_with(const std::shared_ptr<Listener>& listener);
  void on_file_changed(const std::shared_ptr<Listener>& listener);
  void restore_files_after(Nanoseconds pause);
  void restore_files();
  void restore_file(const std::string& pool);
  void restore_files_of(Pool& pool);
  void restoring_gives_way();

  // An upgrade in place: daemon/upgrade.cc.
  struct Rehearsal {
    Child child;
    UniqueFd image;  // what is rehearsed is what is executed
    UniqueFd output;
    uint32_t asked_by = 0;
    EventLoop::Timer timer;
  };
  void upgrade(uint32_t asked_by);
  std::string upgrade_trouble() const;
  void on_rehearsed(int status);
  void exec_next_image(const Rehearsal& rehearsed);  // returns only by an exception
  DaemonRecord record(uint32_t asked_by) const;
  void taken_over(const DaemonRecord& record);

  void note_troubles(const std::vector<std::string>& files, const std::vector<NotHad>& addresses,
                     std::vector<std::string>& errors);
  void speak_through_log();
  std::unique_ptr<Pool> make_pool(PoolPlan plan);
  std::unique_ptr<ControlLink> make_link(ControlLink::Kind kind, UniqueFd socket);
  void say_listening(const Pool& pool, const Listeners& before);
  void greet(ControlLink& link);
  DaemonInfo info() const;
  void tell_daemon_info();
  void tell_pool_info(const Pool& pool);

  // The conversation with systemd: daemon/service.cc.
  void notify_state();
  void say_stopping(Nanoseconds patience);
  void fail_start(const std::string& status);
  std::string stopping_text() const;
  void extend_while_starting(const Settings& settings);
  void extend_until(Nanoseconds deadline);
  void extend();
  void feed_watchdog();
  Pool* find_pool(const std::string& name);
  Pool* find_leaver(const std::string& name);

  const Paths paths_;
  const std::string file_;
  Settings settings_;
  std::vector<EffectiveUser> users_;  // parallel to settings_.pools
  HostNames names_;                   // of the last file; none after an upgrade
  EffectiveUser control_user_;
  Nanoseconds started_;
  int64_t control_gid_ = -1;
  uint64_t reloads_ = 0;        // that succeeded
  uint64_t reloads_asked_ = 0;  // those refused, too

  EventLoop loop_;
  Notify notify_{&loop_};
  EffectiveUser log_user_;
  LogLink log_;  // outlives the pipes of all others
  UniqueFd signals_;
  std::vector<std::unique_ptr<Pool>> pools_;  // as the file has them
  std::vector<std::unique_ptr<Pool>>
      leaving_;  // taken out of the file, or never taken in; until over
  std::unique_ptr<Reload> reload_;
  // What is to be done when the old generations accept no more, or what came in between.
  std::function<void(const std::string& trouble)> settling_;
  bool is_moving_ = false;  // an address is waited for, until its old generation accepts no more
  bool by_force_ = true;    // and kLongestMove at most, which is over
  Nanoseconds moves_fail_since_ = 0;
  FileWatch files_{loop_, [this](const auto& listener) { on_file_changed(listener); }};
  Listeners without_file_;  // that are to be made anew
  struct Restored {
    uint32_t times = 0;  // one soon after the other
    Nanoseconds not_before = 0;
  };
  std::map<std::string, Restored> restored_;  // by pool: when its files were made anew last
  std::unique_ptr<Rehearsal> rehearsal_;
  bool reload_again_ = false;               // a HUP came while one was under way
  std::vector<InheritedSocket> inherited_;  // what no pool has used yet
  std::vector<Listeners> opened_;           // by pool, until start_pools() hands them over
  std::vector<std::string> troubles_;       // likewise; "": it is well
  UniqueFd control_socket_, web_socket_;
  std::string web_trouble_;                          // the last one that was said
  SocketPath control_path_;                          // to be removed
  std::vector<std::unique_ptr<ControlLink>> links_;  // the full one first
  std::vector<std::unique_ptr<ControlLink>>
      old_links_;  // of a page that moved; until they have ended
  Phase phase_ = Phase::kRunning;
  bool said_ready_ = false;
  bool start_failed_ = false;
  std::string refusal_;           // of the last reload or recycle, as a sentence
  Nanoseconds extend_until_ = 0;  // 0: systemd need not wait for anything
  std::string end_time_;          // finishing: when connections are ended; "": at once
  bool ran_ =
      false;  // an error from now on must not end those who serve: they drain without a daemon
  std::vector<pid_t> strangers_;  // children that this process had before
  EventLoop::Timer end_timer_, watchdog_timer_, leavers_timer_, settle_timer_, reload_timer_,
      extend_timer_, move_timer_, predecessor_timer_, reap_timer_, files_timer_, web_timer_;
  PatientTimer finish_timer_{loop_}, force_timer_{loop_};
  Nanoseconds predecessor_until_ = 0;  // see waits_for_predecessor()
};

}  // namespace preforkd
