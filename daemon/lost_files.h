// The file of a pool's Unix socket that somebody has removed, or put another in its place of: nobody can connect any more,
// and a socket that is bound cannot be bound again. (Control's: daemon/control_link.h.) So the pool gets a new one at that path, and a new generation with it:
// it is recycled, and that socket moves as one that gets another user (daemon/moves.h); who waits in the old one's
// queue is served. What lies there now, if it is no dead socket, is a stranger's, and never touched: the pool is
// degraded, says who is there, and looks again each second.
//
// It is noticed at once (daemon/file_watch.h), at the latest by a reload, a recycle or resume of the pool, or an upgrade.
//
// What may come in between. A reload, or a move, is under way: it is done afterwards, if that has not done it. Somebody asks
// for a reload, a recycle, a drain, a resume or an upgrade: that goes first, for a trial lasts as long as its pool likes.
// The new generation fails its trial, or the file is removed again and again: it is tried again after 1 to 30 s, and the old
// generation serves those who are connected. The
// pool is drained: its next socket is made when it is resumed. The file comes back by itself (it was moved away, and
// back): the pool stays as it is. A SIGKILL of the daemon: the next one listens there anew.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "daemon/control_processes.h"
#include "daemon/file_watch.h"
#include "daemon/moves.h"
#include "daemon/pool_set.h"
#include "daemon/stop.h"

namespace preforkd {

class LostFiles {
 public:
  struct Calls {
    std::function<bool()> is_busy;  // with a reload, or an upgrade: it is done afterwards
    // Recycles the pool; `on_done` hears why not, or "".
    std::function<void(const std::string& pool, std::function<void(std::string)> on_done)> recycle;
  };
  LostFiles(EventLoop& loop, PoolSet& pools, ControlProcesses& control, AddressMoves& moves,
            const Stop& stop, Calls calls);

  void watch_pools();  // those of their sockets that listen, and are not watched yet
  void watch_control();
  void on_changed(const std::shared_ptr<Listener>& listener);
  // Before it is resumed: nobody serves it, so there is nobody who would have to be tried out. Throws SysError.
  void restore_at_once(Pool& pool);

 private:
  struct Restored {
    uint32_t times = 0;  // one soon after the other
    Nanoseconds not_before = 0;
  };
  void restore_after(Nanoseconds pause);
  void restore();
  Listeners forget_found();
  bool restore_or_wait(const std::shared_ptr<Listener>& listener, bool& waits);
  void recycle(const std::string& pool);

  EventLoop& loop_;
  PoolSet& pools_;
  ControlProcesses& control_;
  AddressMoves& moves_;
  const Stop& stop_;
  const Calls calls_;
  FileWatch files_{loop_, [this](const auto& listener) { on_changed(listener); }};
  Listeners lost_;                            // that are to be made anew
  std::map<std::string, Restored> restored_;  // by pool: when its files were made anew last
  EventLoop::Timer timer_;
};

}  // namespace preforkd
