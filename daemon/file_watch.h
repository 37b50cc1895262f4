// The files of Unix sockets, as long as somebody may remove or replace them: pools', and control's. The daemon is told of it by inotify, and
// is never woken otherwise. It is the files that are watched, of which little is told; what is told is looked at no more
// than ten times a second, whatever their owners do to them.
//
// Owned by the daemon; of one image: an upgrade in place begins anew, with a look at each.
//
// What may come in between: a file that is replaced before it is watched is found by the look that comes with the watch. A
// folder above that is renamed, or a link that leads elsewhere, is not told: a reload sees that.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/loop.h"
#include "daemon/listener.h"

namespace preforkd {

class FileWatch {
 public:
  // Something has happened to the file of this one, or may have.
  using OnChange = std::function<void(const std::shared_ptr<Listener>&)>;
  FileWatch(EventLoop& loop, OnChange on_change);
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // Those of them that listen, have a file and are not watched yet. Each is tried once.
  void watch(const Listeners& listeners);
  // One that is no pool's, as it is now.
  void watch(const SocketPath& path, std::function<void()> on_change);

 private:
  void begin();
  void read_events();
  bool was_tried(const std::shared_ptr<Listener>& listener) const;

  EventLoop& loop_;
  const OnChange on_change_;
  UniqueFd inotify_;
  std::map<int, std::weak_ptr<Listener>> watched_;  // by the watch's number
  std::map<int, std::function<void()>> others_;     // likewise
  bool said_ = false;                               // that nothing can be watched
  std::vector<std::weak_ptr<Listener>> tried_;      // those, and who could not be
  EventLoop::Timer rest_timer_;
};

}  // namespace preforkd
