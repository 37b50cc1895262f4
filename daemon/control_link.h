// The daemon's end of the two control processes: starts them, restarts them when they die (the pools do not
// notice), tells them what is true, and passes on what the full one asks. The listening sockets are the
// daemon's, so that a client that connects while control is being restarted waits and is not refused.
//
// A client may be able to make control stand still (ipc/message_pipe.h says how, of kernels without SO_PASSRIGHTS).
// So the daemon sees each client that connects, and asks control for a sign of life: then, and once a second as long
// as it says that it has clients. One that is silent for 5 s is replaced. Without clients nobody is woken.
//
// Nobody who could make it stand is overlooked. Who connects before control counts is counted, in its queue if not yet
// accepted (while control starts and takes no clients yet it says 1). Who connects after that does so after the ping
// that asked, so that the daemon sees it (has_come_) and asks once more. Who waits in the queue when a control is
// started, as those do who have outlived the one before, is found by looking at the socket anew. One that an upgrade
// has taken over is asked at once.
//
// A control that has turned against us can shut the listening socket down for all who have it, and the file of a Unix
// socket can be removed. So both are looked at before each start, and whenever something happens to the file: what nobody
// can connect to any more is made anew, and the next process gets it, soon. As long as it cannot be made, because a stranger's
// file is there, say, the process that is there goes on without clients, for it reads the figures.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/backoff.h"
#include "base/budget.h"
#include "base/loop.h"
#include "daemon/held_file.h"
#include "daemon/launch.h"
#include "daemon/log_link.h"
#include "daemon/patience.h"
#include "daemon/socket_path.h"
#include "daemon/takeover.h"
#include "ipc/channel.h"
#include "ipc/control_messages.h"
#include "ipc/message_pipe.h"

namespace preforkd {

class Pool;

inline constexpr int kControlBacklog = 1024;

class ControlLink {
 public:
  enum class Kind { kFull, kWeb };  // kWeb has no way to ask: what it sends is thrown away

  // `greet` is called for each new process: it tells it everything. `on_request` gets what the full one asks, its
  // `id` replaced by a ticket (but for totals), with the bytes behind the Request.
  struct Calls {
    std::function<void(ControlLink&)> greet;
    std::function<void(const Request&, std::string)> on_request;
    // Makes the folder of the socket's file, if that is the daemon's and is not there; may throw.
    std::function<void()> make_folder = [] {};
  };
  // `path`: of the listening socket, if that is a Unix one (the owner removes it in the end); or null.
  ControlLink(EventLoop& loop, LogLink& log, Kind kind, Held executable, UniqueFd listen_socket,
              SocketPath* path, EffectiveUser user, std::string log_level,
              std::vector<std::string> hosts, Calls calls);
  ~ControlLink();

  void start();  // throws SysError
  // Over an upgrade in place: what to write down, and the same process again from that. It is told everything
  // anew. renew() replaces it by one of the new binary, once nobody waits for an answer any more.
  LinkRecord record() const;
  void resume(const LinkRecord& record);
  void answer_all_but(uint32_t ticket, uint32_t status);
  // `hands_in`: the next one will not be able to read what this one reads (another layout), and this one says all its
  // figures, as its last act.
  void renew(bool hands_in = false);
  bool owns(pid_t child) const { return child == child_.pid; }
  // waitpid() had news of a child: it ended, was stopped, goes on. True if it is this link's.
  bool child_changed(pid_t pid, int status);
  void start_again();                 // likewise, and again after a pause until it works
  void close();                       // the process ends when its channel does
  void retire();                      // the same, and its socket refuses at once
  void kill(const std::string& why);  // and says so
  // Its socket may have lost its file, or been shut down: if so, another process, on a socket made anew, takes over in
  // order, as soon as that can be had.
  void look_at_socket();
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
  // Far more than people, and their scripts, ask for.
  static constexpr uint32_t kRequestsAtOnce = 2000, kRequestsPerSecond = 1000;
  static constexpr size_t kMostUnanswered = 1024;  // control asks 128 questions at once

  struct News {
    std::string bytes;
    UniqueFd descriptor;
  };
  void push(std::string bytes, UniqueFd descriptor = {});
  void flush();
  void watch_clients();
  std::optional<std::string> trouble_with_socket() const;
  bool make_next_socket(const std::string& trouble);
  void take_next_socket();
  void watch_requests();
  void read_requests();
  void take(Request request, std::string bytes);
  void ping();
  void wait_for_pong(int seconds);
  void close_news();
  void close_ends();
  void renew_soon();
  void renew_when_quiet();
  void kill_after(Nanoseconds delay, const std::string& why);

  EventLoop& loop_;
  LogLink& log_;
  const Kind kind_;
  const Held executable_;
  UniqueFd listen_socket_;
  SocketPath* const path_;
  std::string address_;  // of the socket, as it was when it listened
  const EffectiveUser user_;
  const std::string log_level_;
  const std::vector<std::string> hosts_;  // control.hosts, for kWeb
  Calls calls_;
  Child child_;
  Channel news_;
  Inbox requests_;
  std::shared_ptr<LogPipe> log_pipe_;  // which it writes to
  Budget budget_{kRequestsAtOnce, kRequestsPerSecond};
  std::deque<News> waiting_;  // what the channel had no room for, in order
  bool waits_for_room_ = false;
  std::set<std::pair<std::string, uint32_t>> told_segments_;
  uint32_t next_ticket_ = 1;
  std::map<uint32_t, uint32_t> unanswered_;  // by ticket: the present process's own numbers
  // Somebody, since the last ping: control may not have seen them when it answers.
  bool has_come_ = false;
  bool closing_ = false, renewing_ = false, is_killed_ = false, hands_in_ = false;
  uint32_t failures_ = 0;  // to start it, or of one that died soon
  Nanoseconds started_at_ = 0, answered_at_ = 0, renew_until_ = 0;
  EventLoop::Timer restart_timer_, renew_timer_, ping_timer_, requests_timer_, look_timer_,
      greet_timer_;
  PatientTimer kill_timer_{loop_};
  UniqueFd next_socket_;  // for the next process
  std::string next_because_;
  std::string obstacle_;  // the last one that was said
};

}  // namespace preforkd
