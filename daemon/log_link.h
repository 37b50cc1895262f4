// The daemon's end of preforkd-log (log/main.cc), which writes the log of all: starts it, replaces it when it dies or
// says nothing, hands it the daemon's lines, and makes the pipes that other processes have as descriptors 1 and 2. What
// leads to the daemon's own stderr nobody else has: by shutdown(2) or ftruncate(2) a worker would take it from all.
//
// The daemon waits for nothing here. What the channel has no room for waits in a bounded queue, and beyond that is
// counted. Of each pipe the daemon keeps the end to read as long as somebody of ours may write: when preforkd-log dies,
// nobody gets SIGPIPE, and the next one reads on. Of the channel, too: the lines that lie there the daemon takes back.
// What the dead one had read and not written is lost.
//
// Nobody is woken for this while nothing is logged. When there is something (a line of the daemon's, bytes in a pipe) it
// is asked for a sign of life, once a second at the most; without one for 5 s it is killed. One that is stopped by a
// signal is killed at once: whoever writes more than a pipe holds waits for it.
//
// After a SIGKILL of the daemon preforkd-log serves the pipes until the last is closed.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "base/backoff.h"
#include "base/budget.h"
#include "base/log.h"
#include "base/loop.h"
#include "daemon/held_file.h"
#include "daemon/launch.h"
#include "daemon/patience.h"
#include "daemon/takeover.h"
#include "ipc/channel.h"
#include "ipc/message_pipe.h"

namespace preforkd {

class LogLink;

// A pipe to preforkd-log, for one generation of a pool or one control process. Owned by its end in the daemon; with it
// the pipe is over.
class LogPipe {
 public:
  LogPipe(LogLink& link, uint32_t id, std::string pool, UniqueFd read_end)
      : link_(link), id_(id), pool_(std::move(pool)), read_end_(std::move(read_end)) {}
  ~LogPipe();
  LogPipe(const LogPipe&) = delete;
  LogPipe& operator=(const LogPipe&) = delete;

  uint32_t id() const { return id_; }
  const std::string& pool() const { return pool_; }  // "": control's
  int read_end() const { return read_end_.get(); }
  LogPipeRecord record() const { return {id_, read_end_.get()}; }

 private:
  LogLink& link_;
  const uint32_t id_;
  const std::string pool_;
  UniqueFd read_end_;
};

class LogLink {
 public:
  LogLink(EventLoop& loop, Held executable, EffectiveUser user);
  ~LogLink();

  void start();       // throws SysError
  void take_lines();  // from here on log() speaks through it
  const EffectiveUser& user() const { return user_; }
  void add(const LogLine& line);

  // Throws SysError.
  struct NewPipe {
    std::shared_ptr<LogPipe> pipe;
    UniqueFd write_end;
  };
  NewPipe open_pipe(const std::string& pool);

  // Over an upgrade in place: what to write down, and the same process and pipes again from that. renew() replaces the
  // process by one of the new binary; the old one has written what it had read by then.
  LogRecord record() const;
  void resume(const LogRecord& record);
  std::shared_ptr<LogPipe> restore_pipe(const std::string& pool, const LogPipeRecord& record);
  void renew();

  bool owns(pid_t child) const { return child == child_.pid; }
  bool is_running() const { return child_.is_running(); }
  // waitpid() had news of a child. True if it is this one.
  bool child_changed(pid_t pid, int status);

  // The last line was added: the process ends when it has written all. It is killed if it has not in a second.
  void close();
  bool is_closing() const { return closing_; }
  // The same for a start that failed, when nothing else is to be done meanwhile.
  void close_and_wait();

 private:
  friend class LogPipe;
  // It is asked for one a second at the most.
  static constexpr uint32_t kPongsAtOnce = 16, kPongsPerSecond = 4;
  struct Pipe {
    std::weak_ptr<LogPipe> pipe;
    bool to_be_watched = false;  // it had something; looked at again after a pause
  };
  struct News {
    std::string bytes;
    enum { kLine, kPipe, kSignal, kLast } kind = kSignal;  // kLast: no more is for this process
    std::shared_ptr<LogPipe> pipe = nullptr;               // kPipe: whose end goes with it
  };
  std::shared_ptr<LogPipe> add_pipe(uint32_t id, const std::string& pool, UniqueFd read_end);
  void forget(const LogPipe& pipe);
  void tell_pipe(const std::shared_ptr<LogPipe>& pipe);
  void on_pipe(uint32_t id, uint32_t events);
  void push(News news);
  void flush();
  void stir();
  void rest();
  void read_pongs();
  void wait_for_pong(int seconds);
  void watch_pongs();
  void take_back_unread();
  void close_ends();
  void kill(const std::string& why);
  void kill_after(Nanoseconds delay, const std::string& why);
  void start_again();
  void start_later();
  void say_directly();

  EventLoop& loop_;
  const Held executable_;
  const EffectiveUser user_;
  Child child_;
  Channel news_;
  Channel unread_;  // its end of that; none after an upgrade
  Inbox pongs_;
  Budget budget_{kPongsAtOnce, kPongsPerSecond};
  std::deque<News> waiting_;
  size_t bytes_waiting_ = 0;  // of lines
  uint32_t lost_ = 0;         // lines, since the last one that waits
  bool waits_for_room_ = false;
  std::map<uint32_t, Pipe> pipes_;
  uint32_t next_pipe_ = 1;
  bool stirred_ = false;  // something was logged since the last ping
  bool closing_ = false, renewing_ = false;
  uint32_t failures_ = 0;  // to start it, or of one that died soon
  Nanoseconds started_at_ = 0;
  EventLoop::Timer ping_timer_, pongs_timer_, rest_timer_, restart_timer_;
  PatientTimer kill_timer_{loop_};
};

}  // namespace preforkd
