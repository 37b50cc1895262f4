// Control's end of the channel to the daemon (base/messages.h): news in, wishes out. Single threaded.
#pragma once

#include <functional>
#include <map>

#include "base/channel.h"
#include "base/loop.h"
#include "base/messages.h"
#include "control/pools.h"

namespace preforkd {

class DaemonLink {
 public:
  struct Handlers {
    std::function<void()> on_news;  // the pools have learned something
    std::function<void(const Request& asked, const Answer&)> on_answer;
    std::function<void(bool in_order)> on_end;  // closed by the daemon; or it does not make sense
  };

  // `mute`: never says anything (the endpoint on TCP, which can ask for no change). The loop and the
  // pools outlive it.
  DaemonLink(EventLoop& loop, UniqueFd channel, Pools& pools, bool mute);
  ~DaemonLink();
  DaemonLink(const DaemonLink&) = delete;
  DaemonLink& operator=(const DaemonLink&) = delete;

  void start(Handlers handlers);

  // False: the daemon takes nothing at the moment. True: on_answer() will come.
  bool ask(const Request& request);

 private:
  void receive();
  bool take(Channel::Datagram& datagram);
  void hand_in_totals();

  EventLoop& loop_;
  Channel channel_;
  Pools& pools_;
  const bool mute_;
  Handlers handlers_;
  std::map<uint32_t, Request> asked_;  // and not answered yet
};

}  // namespace preforkd
