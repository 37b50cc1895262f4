// Everything that the daemon has told this process: information about itself and its pools. Single threaded.
//
// A control that takes the place of another must show no figure that is less than the other has shown. It has three sources:
// the sums of closed generations, which come with a pool's information; the memory of all the others, which comes by itself;
// and that information, which says which are which. The daemon sends the memory of a generation before the information that names it.
// Between any two of these messages this process may look at what it has, and be asked:
//   - information, and not yet the memory that it names: only the closed generations would be counted. So nobody is answered
//     before all of it is here (complete()); it may be missing for longer, as the daemon may be out of descriptors.
//   - memory that no information has named yet: it is counted, and belongs to no generation that is in the sums, as the daemon
//     closes a generation, and says so, in one message: the information that does not name it any more comes with sums that include it.
//   - killed after it has handed sums in: they are the daemon's, or lost with the pipe, and the generation is open still.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "control/pool_reader.h"
#include "ipc/channel.h"

namespace preforkd {

class Pools {
 public:
  const DaemonInfo& daemon() const { return daemon_; }

  // Whether the daemon has said all that it says first: who it is, what each pool is, and where its figures are.
  bool complete();

  // The pools that the daemon lists and has described, in its order.
  std::vector<PoolReader*> shown();
  PoolReader* find_shown(std::string_view name);  // null: no such pool
  std::map<std::string, PoolReader, std::less<>>& all() { return pools_; }

  // One datagram of kDaemon, kPool or kSegment. False: it is none of them as they should be.
  bool learn(Channel::Datagram& datagram);

 private:
  bool learn_json(std::string_view bytes);
  bool learn_segment(Channel::Datagram& datagram);

  DaemonInfo daemon_;
  std::map<std::string, PoolReader, std::less<>> pools_;
  uint64_t next_serial_ = 1;
};

}  // namespace preforkd
