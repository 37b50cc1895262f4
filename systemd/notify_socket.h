// The way to systemd ($NOTIFY_SOCKET, sd_notify(3)), that never waits: what systemd does not read stays here, in order,
// and goes when there is room. sd_notify() would wait in sendmsg() for a systemd that does not read.
//
// One for the daemon, which has one $NOTIFY_SOCKET: what tells systemd something is in several places. Without that
// variable every call does nothing.
#pragma once

#include <deque>
#include <string>

#include "base/fd.h"
#include "base/loop.h"

namespace preforkd {

class NotifySocket {
 public:
  static NotifySocket& of_process();

  // Whose loop sends what has to wait; null: nobody's any more, it waits for the next message.
  void retry_by(EventLoop* loop);

  // Of what has to wait, a message replaces the one of its kind before it, where the newest says all; kEach: none.
  enum class Kind { kEach, kStatus, kExtend, kWatchdog };
  // `descriptor`: goes with it, if there is one.
  void send(std::string message, Kind kind, UniqueFd descriptor = {});
  bool all_is_sent() const { return waiting_.empty(); }

 private:
  struct Message {
    std::string text;
    Kind kind;
    UniqueFd descriptor;
  };
  void flush();
  bool send_one(const Message& message);  // false: there is no room
  bool connect();
  void watch(bool for_room);

  EventLoop* loop_ = nullptr;
  bool is_watched_ = false;
  UniqueFd socket_;
  std::deque<Message> waiting_;
};

}  // namespace preforkd
