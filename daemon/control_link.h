// The daemon's end of the two control processes: starts them, restarts them when they die (the pools do not
// notice), tells them what is true, and passes on what the full one asks. The listening sockets are the
// daemon's, so that a client that connects while control is being restarted waits and is not refused.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "base/channel.h"
#include "base/loop.h"
#include "base/messages.h"
#include "daemon/launch.h"
#include "daemon/takeover.h"

namespace preforkd {

class Pool;

class ControlLink {
 public:
  enum class Kind { kFull, kWeb };  // kWeb has no way to ask: what it sends is thrown away

  // `greet` is called for each new process: it tells it everything. `on_request` gets what the full one asks, its
  // `id` replaced by a ticket (but for totals), with the bytes behind the Request.
  struct Calls {
    std::function<void(ControlLink&)> greet;
    std::function<void(const Request&, std::string)> on_request;
  };
  ControlLink(EventLoop& loop, Kind kind, std::string executable, UniqueFd listen_socket,
              EffectiveUser user, std::string log_level, Calls calls);
  ~ControlLink();

  void start();  // throws SysError
  // Over an upgrade in place: what to write down, and the same process again from that. It is told everything
  // anew. renew() replaces it by one of the new binary, once nobody waits for an answer any more.
  LinkRecord record() const;
  void resume(const LinkRecord& record);
  void answer_all_but(uint32_t ticket, uint32_t status);
  void renew();
  // waitpid() had news of a child: it ended, was stopped, goes on. True if it is this link's.
  bool child_changed(pid_t pid, int status);
  void start_again();  // likewise, and again after a pause until it works
  void close();        // the process ends when its channel does
  void retire();       // the same, and its socket refuses at once
  void kill() { child_.signal(9); }
  bool is_running() const { return child_.is_running(); }

  void tell_daemon(const std::string& json);
  void tell_pool(const std::string& json, const std::string& base);
  // Each segment once to each process.
  void tell_segment(const std::string& pool, uint32_t generation, int read_only_fd);
  // `ticket`: the number that on_request() was given. No other question of any process has it: nothing is sent if
  // the one that asked is gone.
  void answer(uint32_t ticket, uint32_t status, const std::string& text);
  int listen_fd() const { return listen_socket_.get(); }

 private:
  struct News {
    std::string bytes;
    UniqueFd descriptor;
  };
  void push(std::string bytes, UniqueFd descriptor = {});
  void flush();
  void watch_channel();
  void read_channel();
  void renew_soon();
  void renew_when_quiet();
  void kill_if_stuck();

  EventLoop& loop_;
  const Kind kind_;
  const std::string executable_;
  UniqueFd listen_socket_;
  const EffectiveUser user_;
  const std::string log_level_;
  Calls calls_;
  Child child_;
  Channel channel_;
  std::deque<News> waiting_;  // what the channel had no room for, in order
  std::set<std::pair<std::string, uint32_t>> told_segments_;
  uint32_t next_ticket_ = 1;
  std::map<uint32_t, uint32_t> unanswered_;  // by ticket: the present process's own numbers
  bool closing_ = false, renewing_ = false;
  Nanoseconds pause_ = 0;
  Nanoseconds started_at_ = 0, answered_at_ = 0, renew_until_ = 0;
  EventLoop::TimerId restart_timer_{}, renew_timer_{}, stuck_timer_{};
};

}  // namespace preforkd
