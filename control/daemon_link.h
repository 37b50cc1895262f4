// Control's ends of what leads to the daemon (ipc/control_messages.h): news in, wishes out. Single threaded.
#pragma once

#include <functional>
#include <map>

#include "base/loop.h"
#include "control/pools.h"
#include "ipc/channel.h"
#include "ipc/control_messages.h"
#include "ipc/message_pipe.h"

namespace preforkd {

class DaemonLink {
 public:
  struct Handlers {
    std::function<void()> on_news;  // the pools have learned something
    std::function<void(const Request& asked, const Answer&)> on_answer;
    std::function<void(bool in_order)> on_end;  // closed by the daemon; or it does not make sense
    std::function<uint32_t()> clients;          // how many there are
  };

  // `mute`: says nothing but that it is alive (the endpoint on TCP, which can ask for no change). The loop and the
  // pools outlive it.
  DaemonLink(EventLoop& loop, UniqueFd news, UniqueFd requests, Pools& pools, bool mute);
  ~DaemonLink();
  DaemonLink(const DaemonLink&) = delete;
  DaemonLink& operator=(const DaemonLink&) = delete;

  void start(Handlers handlers);

  // False: the daemon takes nothing at the moment. True: on_answer() will come, with a 504 if the daemon is silent
  // for too long.
  bool ask(const Request& request);

 private:
  void receive();
  void pong();
  bool take(Channel::Datagram& datagram);
  void conclude(const Answer& answer);
  void hand_in_totals();
  void hand_in_all();
  Channel::Sent send_totals(const std::string& pool, uint32_t generation, uint32_t set,
                            const shm::Counters& figures);

  EventLoop& loop_;
  Channel news_;
  Outbox requests_;
  Pools& pools_;
  const bool mute_;
  Handlers handlers_;
  struct Asked {
    Request request;
    EventLoop::Timer deadline;
  };
  std::map<uint32_t, Asked> asked_;  // and not answered yet
};

}  // namespace preforkd
