// The control processes: the one that commands come to, and the one of the page (control.web), if there is one. What is told
// to one is told to both. Who has taken the page's port keeps nobody from being served: the page comes later.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "conf/load.h"
#include "daemon/control_link.h"
#include "daemon/pool_set.h"
#include "ipc/info.h"

namespace preforkd {

class ControlProcesses {
 public:
  struct Calls {
    std::function<DaemonInfo()> info;
    std::function<void(const Request&, std::string bytes)> on_request;
    std::function<void()> on_greeted;    // the full one: its socket may be a new one
    std::function<bool()> is_stopping;   // then the page is not started any more
    std::function<bool()> is_reloading;  // which may change it, or end it
  };
  // `in_force`: what the daemon works by; it may change.
  ControlProcesses(EventLoop& loop, LogLink& log, const Paths& paths,
                   const LoadedSettings& in_force, const PoolSet& pools, Calls calls);
  ~ControlProcesses();  // removes the full one's socket

  // At the start: the sockets (adds to `errors` why the full one cannot be had), and later the processes.
  void open_sockets(std::vector<std::string>& errors);
  void start();  // throws SysError
  bool is_started() const { return control_ != nullptr; }

  const std::string& path() const { return path_.path(); }
  const SocketPath& socket() const { return path_; }
  const EffectiveUser& user() const { return user_; }
  void look_at_sockets();
  void look_at_socket() { control_->look_at_socket(); }  // of the full one

  // --- what they are told ---
  void tell_daemon();
  void tell_pool(const Pool& pool);
  void tell_all();
  void answer(uint32_t ticket, uint32_t status, const std::string& text) {
    control_->answer(ticket, status, text);
  }

  // --- the page ---
  bool has_web() const { return web_ != nullptr; }
  bool lacks_web() const;  // it is configured, and not there
  int web_fd() const { return web_->listen_fd(); }
  // `socket`: not open: it is tried again until it can be had.
  void start_web(UniqueFd socket);
  // What is there leaves; `keeps_socket`: another process takes its place on the same socket.
  void end_web(bool keeps_socket);

  // --- their end ---
  void close();
  void kill(const std::string& why);
  bool any_is_running() const;
  bool owns(pid_t child) const;
  bool child_changed(pid_t pid, int status);
  void forget_ended();

  // --- over an upgrade in place ---
  void record(DaemonRecord& record) const;
  void before_exec();  // whoever takes over does not know of those that leave
  void resume(const DaemonRecord& record, const std::function<void()>& on_step);
  void resumed(uint32_t asked_by, bool hands_in);

 private:
  std::unique_ptr<ControlLink> make_link(ControlLink::Kind kind, UniqueFd socket);
  void greet(ControlLink& link) const;
  UniqueFd listen_for_web();
  void start_web_later();
  std::vector<ControlLink*> all() const;
  template <class Call>
  void each(Call call) const {
    for (auto* link : {control_.get(), web_.get()})
      if (link) call(*link);
  }

  EventLoop& loop_;
  LogLink& log_;
  const Paths& paths_;
  const LoadedSettings& in_force_;
  const PoolSet& pools_;
  const Calls calls_;
  const EffectiveUser user_;
  SocketPath path_;  // of the full one's socket, to be removed
  UniqueFd socket_, web_socket_;
  std::unique_ptr<ControlLink> control_, web_;
  std::vector<std::unique_ptr<ControlLink>>
      leaving_;              // of a page that moved; until they have ended
  std::string web_trouble_;  // the last one that was said
  EventLoop::Timer web_timer_;
};

}  // namespace preforkd
