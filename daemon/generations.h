// The generations of one pool, the oldest first, the one that serves or is to serve last: who of them is meant. What becomes
// of them, the pool says (daemon/pool.h).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/generation.h"

namespace preforkd {

class Generations {
 public:
  void add(std::unique_ptr<Generation> generation);
  // One that has been on trial in vain: before the newest, which serves.
  void add_abandoned(std::unique_ptr<Generation> generation);

  auto begin() const { return all_.begin(); }
  auto end() const { return all_.end(); }
  Generation* newest() const { return all_.empty() ? nullptr : all_.back().get(); }
  bool is_newest(uint32_t number) const { return newest() && newest()->number() == number; }
  Generation* numbered(uint32_t number) const;  // nullptr: there is none any more
  Generation* current() const;                  // the newest one, if it has a supervisor
  Generation* in_charge() const;                // the newest that serves, and is not on trial
  Generation* supervised_by(pid_t supervisor) const;
  Generation* owner_of(pid_t child, pid_t session) const;  // as Generation::owns() has it
  bool leavers_accept() const;  // one that was told to leave may still take a connection
  bool are_over() const;

  // Who is over is kept until it is read, or too many are. True, or its number: there was one, and it is gone.
  bool close(uint32_t number);
  std::optional<uint32_t> drop_oldest_over(size_t most);
  // Who is lost (Generation::is_lost()), and the oldest of those has no more time.
  size_t count_lost() const;
  void end_oldest_lost() const;

 private:
  std::vector<std::unique_ptr<Generation>> all_;
};

}  // namespace preforkd
