// Looks at each pool once a second while there is traffic, so that its utilisation of the last second,
// ten seconds and minute is known; and sleeps without a timer while there is none. Woken by the pool's
// `tick` (tick_bell.h). Single threaded but for the bells.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/loop.h"
#include "control/pools.h"
#include "control/tick_bell.h"

namespace preforkd {

class Sampler {
 public:
  Sampler(EventLoop& loop, Pools& pools);  // both outlive it
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // To be called after each piece of news: bells for new segments, none for those that are gone.
  void follow_news();

 private:
  struct Ear {  // for one segment
    std::unique_ptr<TickBell> bell;
    uint32_t seen = 0;  // the tick at the last look
  };
  struct Watch {                   // over one pool
    std::map<uint64_t, Ear> ears;  // by the segment's serial
    EventLoop::Timer next;
    bool awake = false;
  };

  void on_bell();
  void wake(const std::string& name, Watch& watch);
  void look(const std::string& name);
  bool follow(const PoolReader& pool, Watch& watch);

  EventLoop& loop_;
  Pools& pools_;
  UniqueFd bells_;  // an eventfd, written by every bell
  std::map<std::string, Watch> watches_;
};

}  // namespace preforkd
