// Addresses that get another socket. In the first place those that get another user: of another pool, or of the same one
// whose user has changed. Processes of the user
// before may have left one behind that accepts on its copy of the listen socket for ever, so the next one gets a socket
// of its own (daemon/listener.h). A reload does it in this order:
//
//   prepare   a new socket, not bound, is what the generation on trial has; roll back: it is closed, and that is all
//   commit    the door of the old one is closed: SYNs are dropped, which their senders repeat after 1 s; a path is
//             removed. The old generation finishes the queue (5 s at most), as of any address that is dropped
//   move      it accepts no more (or kLongestMove is over, whatever it does): the old one is shut down for all who
//             have a copy, the new one bound, listening, stored by systemd
//   serve     the new generation is told to serve; a pool that has dropped no address was served by the one before
//
// So do paths whose file is gone (daemon/lost_files.h), and new addresses that overlap with dropped ones, as 0.0.0.0:80
// does with 10.0.0.1:80. Where both are the same user's, both can be there: the new one is bound at `prepare`, so that a
// reload that cannot have it fails, and listens at `move` at once. While the old one listens yet, clients of the narrower
// address come to it if that is its own: their SYN is dropped, and repeated after 1 s.
//
// A path need not wait for the old generation: both sockets can be there. An abstract name is free when the last copy
// of its socket is closed, and not before.
//
// What may come in between. Whoever has a copy of the old one makes it listen again: both lose the race for
// listen(2) to the other now and then, and ours is tried until it has won (without SO_REUSEPORT: refused). Somebody
// else takes the address in that moment, or the new user may not make a file there: for 1 s it is tried again each
// 0.1 s; then who asked is told, the pool is degraded, and it is tried each second until it works or a reload
// takes the address from the pool. A second reload: refused until the addresses have moved or failed (after a HUP it is
// done then). One that begins after that waits for nothing that has failed before: its generations go without that address,
// and others follow them when it is had. An upgrade: refused until they have moved. A stop: they do not move any more. The
// new generation's supervisor dies: its successor begins on trial, too. The old one says nothing, or is stopped: kLongestMove.
//
// At a start the same is done, once, for what cannot be had then (listen_at_start()).
//
// A SIGKILL of the daemon after prepare leaves nothing. After commit: the old socket is out of the store, its generation
// finishes and lets go of it, the new generation ends without having served; the next daemon opens the
// address. After listen, before it is stored: its generation drains, and the next daemon opens the address.
#pragma once

#include <functional>
#include <string>

#include "daemon/patience.h"
#include "daemon/pool_set.h"
#include "daemon/stop.h"

namespace preforkd {

// At the start, for one pool. Of sockets that were stored for another user: nobody is there any more who could serve what
// waits.
struct NotHad {
  std::string reason;    // "": all addresses are had
  bool may_come = true;  // somebody else has what is missing, or this machine has not (yet)
};
NotHad listen_at_start(const Listeners& opened, const PoolSettings& pool);
// What is said of an address that cannot be had, and why.
std::string not_served(const std::string& reason);

class AddressMoves {
 public:
  using Answer = std::function<void(const std::string& trouble)>;
  struct Calls {
    std::function<void()> watch_files;  // of who listens from now on
    std::function<Answer()>
        take_answer;  // who waits for the end of a reload; from then on nobody does
  };
  AddressMoves(EventLoop& loop, PoolSet& pools, const Stop& stop, Calls calls)
      : loop_(loop), pools_(pools), stop_(stop), calls_(std::move(calls)) {}

  // A reload has been committed. `before`: the listeners there were before it. One that could not be had then is waited for
  // as it was.
  void begin(const Listeners& before);
  void wait_for_addresses();  // those that failed just now
  // An address is waited for, until its old generation accepts no more.
  bool is_moving() const { return is_moving_; }
  void on_pool_changed();

 private:
  struct Failed {
    Pool* pool;
    std::string reason;
  };
  void move();
  bool move_some(std::vector<Failed>& failed);
  std::string move_addresses_of(Pool& pool);
  void give_up(const std::vector<Failed>& failed, bool was_moving);

  EventLoop& loop_;
  PoolSet& pools_;
  const Stop& stop_;
  const Calls calls_;
  bool is_moving_ = false;
  bool by_force_ = true;  // kLongestMove is over
  Nanoseconds fail_since_ = 0;
  EventLoop::Timer move_timer_;
  PatientTimer force_timer_{loop_};
};

}  // namespace preforkd
