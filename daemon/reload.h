// The reload: the new configuration is loaded and checked whole by a child (daemon/loader.h), what it needs is made, and
// what has changed is tried out beside what serves. When every trial has gone well everything takes effect at once; when anything
// fails, everything stays as it was. A pool that is recycled is one whose plan alone has changed, by nothing.
//
//   idle ──▶ loading ──▶ counting ──▶ trying ──all well: commit──▶ handing over ──nobody else accepts──▶ idle
//               └─ refused ───────────────┴── one is not: roll back ──▶ idle
//
// counting: each supervisor is asked how many workers it has, for its successor begins with as many.
// An address that gets another user moves after the commit, and the reload is answered when it has: daemon/moves.h.
//
// A stop, a second reload, a supervisor or control that dies meanwhile: a stop rolls it back; a second one is
// refused (after a HUP, which has nobody to tell, it is done again afterwards); a supervisor's successor is
// launched with the plan that is in force then; the answer to a control that is gone is dropped.
// A SIGKILL of the daemon: both generations drain, as at any other moment.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "conf/load.h"
#include "daemon/control_processes.h"
#include "daemon/loading.h"
#include "daemon/lost_files.h"
#include "daemon/moves.h"
#include "daemon/pool_set.h"
#include "daemon/service_status.h"
#include "daemon/stop.h"
#include "systemd/inherited.h"

namespace preforkd {

class Reload {
 public:
  // `in_force`: what the daemon works by; a commit changes it. `file` "": the built-in default.
  Reload(EventLoop& loop, const Paths& paths, std::string file, LoadedSettings& in_force,
         PoolSet& pools, ControlProcesses& control, LogLink& log, AddressMoves& moves,
         LostFiles& lost_files, ServiceStatus& service, Stop& stop,
         std::function<void()> show_status);

  // With `recycled_pool`, one pool is made anew as it is; without, everything from the file. `on_done` hears why not, or "";
  // null: nobody is there to hear. `restores`: nobody has asked for it, a socket has lost its file; it gives way.
  using OnDone = std::function<void(std::string refusal)>;
  void begin(const std::string& recycled_pool, OnDone on_done, bool restores = false);
  void give_way();  // to what somebody has asked for
  void stop();      // preforkd ends

  bool is_under_way() const { return stage_ > Stage::kIdle && stage_ < Stage::kHandingOver; }
  bool is_idle() const { return stage_ == Stage::kIdle; }
  void on_pool_changed();
  // Who waits for the end of the handing over hears of it from somebody else.
  AddressMoves::Answer take_answer();
  bool needs(const Pool& leaving) const;  // it is in the file again

  // The child that loads.
  bool owns(pid_t child) const { return attempt_.loading && attempt_.loading->owns(child); }
  bool child_changed(pid_t pid, int status);

  uint64_t succeeded() const { return succeeded_; }
  bool was_asked_for() const { return asked_ > 0; }
  // What systemd passed and no pool uses yet.
  void keep_inherited(std::vector<InheritedSocket> inherited);
  // Over an upgrade in place.
  void record(DaemonRecord& record) const;
  void resume(const DaemonRecord& record);

 private:
  enum class Stage { kIdle, kLoading, kCounting, kTrying, kHandingOver };

  struct PoolChange {
    PoolPlan plan;
    Pool* pool = nullptr;  // of this name: configured, coming, or returning
    bool is_new = false;   // it was not configured before
    bool needs_trial = false;
  };
  struct WebChange {  // of control.web, or who may ask for it
    UniqueFd socket;
    bool stays = false;        // it is the same address
    bool comes_later = false;  // when a pool has let go of its address
  };
  struct Attempt {
    std::unique_ptr<Loading> loading;  // until it is loaded
    LoadedSettings loaded;
    std::vector<PoolChange> changes;         // parallel to loaded.settings.pools
    Listeners before;                        // of all pools
    Listeners without_file;                  // of those that stay
    std::vector<InheritedSocket> inherited;  // copies; those that a pool will use are taken out
    WebChange web;
    std::string given_up;   // by control.web; "": nothing
    std::string recycled;   // one pool as it is, instead of a file; "": none
    bool restores = false;  // nobody has asked for it: a socket has lost its file
    std::string what;       // for systemd's status
    size_t undecided = 0;   // trials without a verdict
    std::string trouble;    // the first verdict against it
    OnDone on_done;

    bool recycles() const { return !recycled.empty(); }
  };

  void load();
  void on_loaded(std::vector<std::string> errors);
  BoundEntries bound_entries() const;
  void count_workers();
  void start_trials();
  void on_verdict(size_t index, const std::string& reason, const std::string& key);
  void commit();
  void commit_pools(Attempt& a);
  void commit_pool(Attempt& a, PoolChange& change, const Listeners& after);
  void commit_settings(Attempt& a);
  void commit_web(WebChange& web);
  void hand_over_in_time();
  void finish_handing_over();
  void roll_back(std::string reason);
  void end(OnDone on_done, const std::string& refusal, const std::string& recycled = "");

  // daemon/reload_prepare.cc
  void prepare(Attempt& a, std::vector<std::string>& errors);
  bool copy_inherited(Attempt& a, std::vector<std::string>& errors) const;
  bool plan_pools(Attempt& a, std::vector<std::string>& errors);
  void prepare_pool(Attempt& a, size_t index, std::vector<std::string>& errors);
  void prepare_web(Attempt& a, std::vector<std::string>& errors);
  void keep_web(Attempt& a, std::vector<std::string>& errors);
  UniqueFd open_web(const Attempt& a, std::string& address);

  EventLoop& loop_;
  const Paths& paths_;
  const std::string file_;
  LoadedSettings& in_force_;
  PoolSet& pools_;
  ControlProcesses& control_;
  LogLink& log_;
  AddressMoves& moves_;
  LostFiles& lost_files_;
  ServiceStatus& service_;
  Stop& stop_;
  const std::function<void()> show_status_;
  Stage stage_ = Stage::kIdle;
  Attempt attempt_;
  AddressMoves::Answer answer_;  // while handing over: who hears of its end
  bool again_ = false;           // a HUP came while one was under way
  uint64_t succeeded_ = 0, asked_ = 0;
  std::vector<InheritedSocket> inherited_;  // what no pool has used yet
  EventLoop::Timer again_timer_;            // for that HUP, when it has ended
  EventLoop::Timer next_timer_;             // the next step, not from within another's call
  EventLoop::Timer hand_over_timer_;
};

LogLevel log_level_of(const Settings& settings);

}  // namespace preforkd
