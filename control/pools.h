// Everything that the daemon has told this process: facts about itself and its pools. Single threaded.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/channel.h"
#include "control/pool_reader.h"

namespace preforkd {

class Pools {
 public:
  const DaemonFacts& daemon() const { return daemon_; }

  // Whether the daemon has said all that it says first: who it is, and what each pool is.
  bool complete() { return daemon_.pid != 0 && shown().size() == daemon_.pools.size(); }

  // The pools that the daemon lists and has described, in its order.
  std::vector<PoolReader*> shown();
  PoolReader* find_shown(std::string_view name);  // null: no such pool
  std::map<std::string, PoolReader, std::less<>>& all() { return pools_; }

  // One datagram of kDaemon, kPool or kSegment. False: it is none of them as they should be.
  bool learn(Channel::Datagram& datagram);

 private:
  bool learn_json(std::string_view bytes);
  bool learn_segment(Channel::Datagram& datagram);

  DaemonFacts daemon_;
  std::map<std::string, PoolReader, std::less<>> pools_;
  uint64_t next_serial_ = 1;
};

}  // namespace preforkd
