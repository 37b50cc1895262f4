// What preforkd-log reads: the daemon's channel, and the pipes that it names. It never waits for who writes the log, so
// nobody waits for it. What one pool may bring is bounded, so that no pool fills the log: what is beyond is thrown away,
// counted, and said once a second. When the daemon is gone it goes on until nobody has any of the pipes open.
#pragma once

#include <map>
#include <string>

#include "base/budget.h"
#include "base/loop.h"
#include "ipc/channel.h"
#include "ipc/log_messages.h"
#include "ipc/message_pipe.h"
#include "log/lines.h"
#include "log/writer.h"

namespace preforkd {

class Reader {
 public:
  Reader(Writer& writer, UniqueFd news, UniqueFd pongs);
  void run();  // until there is nothing left to read

 private:
  // In bytes: thousands of lines a second, and no disk is full within the hour.
  static constexpr uint32_t kBytesAtOnce = 1 << 20, kBytesPerSecond = 512 << 10;

  // Stays when its pipes are gone: a pool that ends one generation after the other has one budget for all.
  struct Source {
    Budget budget{kBytesAtOnce, kBytesPerSecond};
    uint64_t left_out = 0;  // lines, not said yet
    EventLoop::Timer timer;
  };
  struct Pipe {
    UniqueFd fd;
    std::string source;
    Lines lines;
  };
  void read_news();
  bool take(Channel::Datagram& datagram);  // false: not what the daemon says
  void take_line(const LogNewsLine& head, std::string_view text);
  void open_pipe(const LogNewsPipe& what, UniqueFd fd);
  enum class Left { kMore, kNothing, kEnd };
  Left read_pipe(Pipe& pipe);
  void close_pipe(uint32_t id);
  void put(const Pipe& pipe, std::string line);
  void leave_out(const std::string& name, Source& source);
  void say_left_out(const std::string& name);
  void end_if_over();

  Writer& writer_;
  EventLoop loop_;
  Channel news_;
  Outbox pongs_;
  std::map<uint32_t, Pipe> pipes_;
  std::map<std::string, Source> sources_;
};

}  // namespace preforkd
