// The lists of networks of a pool, as a file in memory that is made once for each generation, by the daemon, and mapped by
// its supervisor; workers inherit the mapping over their fork, and programs that accept by themselves the file, which
// libpreforkd maps again. So however long the lists are, nobody but the daemon reads them as text, and no process has a
// copy of its own: a fork does not copy the page tables of a file either.
//
// The file is sealed: nobody can change it, or truncate it under those who read. It is empty for a pool without lists, of
// which nothing is mapped then. Otherwise it has two sets (base/range_set.h), one behind the other: who has access, and
// whose PROXY headers are taken.
#pragma once

#include "base/fd.h"
#include "base/range_set.h"
#include "conf/settings.h"

namespace preforkd {

// Throws SysError.
UniqueFd make_network_lists(const PoolSettings& settings);

class NetworkLists {
 public:
  // Borrows the descriptor, for as long as this takes. Throws SysError; std::runtime_error: it is no such file.
  explicit NetworkLists(int fd);
  ~NetworkLists();
  NetworkLists(const NetworkLists&) = delete;
  NetworkLists& operator=(const NetworkLists&) = delete;

  RangeSet access() const { return access_; }
  RangeSet trusted() const { return trusted_; }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
  RangeSet access_ = RangeSet::of_all(), trusted_;
};

}  // namespace preforkd
