// Everything that the daemon has told this process: facts about itself and its pools. Single threaded.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/channel.h"
#include "control/pool.h"

namespace preforkd {

class Pools {
 public:
  const DaemonFacts& daemon() const { return daemon_; }

  // The pools that the daemon lists and has described, in its order.
  std::vector<Pool*> shown();
  Pool* find_shown(std::string_view name);  // null: no such pool
  std::map<std::string, Pool, std::less<>>& all() { return pools_; }

  // One datagram of kDaemon, kPool or kSegment. False: it is none of them as they should be.
  bool learn(Channel::Datagram& datagram);

 private:
  bool learn_json(std::string_view bytes);
  bool learn_segment(Channel::Datagram& datagram);

  DaemonFacts daemon_;
  std::map<std::string, Pool, std::less<>> pools_;
  uint64_t next_serial_ = 1;
};

}  // namespace preforkd
