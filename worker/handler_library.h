// A handler's shared object, loaded and checked. Used by the supervisor (which preloads it) and by
// `preforkd-supervisor --check` (which only looks), never by the daemon.
#pragma once

#include <preforkd/handler.h>

#include <string>

#include "worker/host.h"

namespace preforkd {

class HandlerLibrary {
 public:
  // Loads `path`, opened as this user; if it may not search one of its folders, the descriptor of the same file that the
  // daemon could open by a path that nobody else can change (-1: none). What is loaded is a copy in memory: the file may
  // be overwritten, or truncated, under a running pool. Both descriptors are closed before code of the library runs.
  // (One that finds its own libraries by $ORIGIN is loaded from its place.)
  //
  // Throws std::runtime_error "load PATH: reason": missing, not a shared object, no descriptor in it, of another ABI
  // version. It is never unloaded: its code may have left threads, atexit functions or signal handlers behind.
  HandlerLibrary(const std::string& path, int fd);

  // Runs its preload with the pool's name and settings (JSON). Throws std::runtime_error.
  void preload(const std::string& pool, const std::string& settings);

  // An exception that leaves the handler has crossed a C interface: the worker aborts (noexcept), and
  // that counts as a crash.
  bool has_start() const { return handler_->start != nullptr; }
  int start() const noexcept { return handler_->start ? handler_->start(state_) : 0; }
  int serve(const preforkd_connection& c) const noexcept { return handler_->serve(state_, &c); }
  void stop() const noexcept {
    if (handler_->stop) handler_->stop(state_);
  }

 private:
  const struct preforkd_handler* handler_;
  std::string path_, pool_, settings_;  // what the host structure points into
  preforkd_host host_{};
  void* state_ = nullptr;
};

}  // namespace preforkd
