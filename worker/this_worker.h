// The worker that this process was started as, or the template that it was: for programs that accept by themselves, by calls of
// libpreforkd (worker/libpreforkd.cc) or by those of libc (interpose/). One in a process, made when it is needed first, and never
// destroyed: the process is the worker to its end.
#pragma once

#include <preforkd/serve.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "conf/network_lists.h"
#include "conf/settings.h"
#include "shm/mapping.h"
#include "template/point.h"
#include "worker/closing.h"
#include "worker/intake.h"
#include "worker/serving_program.h"

namespace preforkd {

struct NotAWorker : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class ThisWorker {
 public:
  // By what the environment says, or by what was kept of it before it was taken away. Throws NotAWorker, SysError and others.
  static ThisWorker& expect();
  static void keep(const std::string& text);
  // Null before that; and in a child, which has its parent's memory and must not speak for it.
  static ThisWorker* existing();

  // Takes over the descriptors that were handed on: those that it does not need any more are closed. Throws SysError and others.
  explicit ThisWorker(const ServingWorker& worker);

  // The first one is the point: a template stays in here, and who comes out is a worker.
  void start();
  Intake& intake() { return *intake_; }  // of one that was started

  // It is in hand and counted, until done().
  void begin(Accepted accepted);
  bool is_in_hand() const { return is_in_hand_; }
  preforkd_connection describe() const { return intake_->describe(connection_); }
  const Accepted& connection() const { return connection_; }
  int hand_over();  // the caller's from now on
  // The caller may have closed it, and have another one by its number.
  bool is_still_open() const { return cookie_ != 0 && cookie_of(fd_) == cookie_; }
  // Before it is closed. `fd`: a copy of it, if the caller has closed the one that was handed over.
  void done(bool served) { done(served, fd_); }
  void done(bool served, int fd);

  void recycle();
  const PoolSettings& settings() const { return settings_; }
  pid_t pid() const { return pid_; }
  // "" while there is none in hand.
  const char* peer() { return text_of(connection_.peer, peer_); }
  const char* local() { return text_of(connection_.local, local_); }

  // Called in each worker that is made of a template.
  static void after_fork(void (*function)(void*), void* argument);

 private:
  static uint64_t cookie_of(int fd);
  const char* text_of(const SocketAddress& address, std::string& text) const;
  void make_fork_point(const ServingWorker& worker);

  pid_t pid_;
  const PoolSettings settings_;
  const shm::Mapping mapping_;
  const NetworkLists lists_;
  const std::vector<int> listen_sockets_;
  const IntakePlan plan_;
  std::optional<ForkPoint> fork_point_;  // of a template; of a worker until its first connection
  std::optional<Intake> intake_;         // of a worker
  const Closing closing_;
  Accepted connection_;
  int fd_ = -1;          // the connection in hand; the caller's
  uint64_t cookie_ = 0;  // of that
  std::string peer_, local_;
  bool is_started_ = false, is_in_hand_ = false, is_worn_ = false;
};

}  // namespace preforkd
