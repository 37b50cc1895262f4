// The daemon, for the time of a few system calls, with another user's rights to files: what a pool's user could make
// a path mean, the kernel then lets nobody reach but that user. Root alone can; for a daemon that is not root, which
// has its own rights and no others, it does nothing.
//
// The daemon has one thread, whose effective and real user stay as they are: a signal, a pidfd, a channel work as
// ever, and the pool's user cannot signal or trace it (to be traced takes all its uids; and from the first time on it
// is not dumpable). Capabilities that have to do with files leave the effective set with the uid, and come back with
// it; CAP_SETUID and CAP_SETGID, which both ways take, stay.
#pragma once

#include <sys/types.h>

#include <vector>

#include "conf/user.h"

namespace preforkd {

class ActingAs {
 public:
  // Throws SysError "act as user NAME: reason", with nothing changed.
  explicit ActingAs(const EffectiveUser& user);
  ~ActingAs();  // or aborts: a daemon that went on as somebody else would be no daemon
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;

 private:
  void put_back();
  void keep_guarded();

  const bool changes_;
  std::vector<gid_t> groups_;  // of before
  int death_signal_ = 0;
};

}  // namespace preforkd
