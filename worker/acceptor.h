// How a worker gets its next connection: exclusive epoll on the pool's non-blocking listen sockets.
// One per worker, made after the fork (an epoll instance shared between processes would share its
// waiters).
//
// EPOLLEXCLUSIVE wakes one waiter a connection, in the order of registration: the same few warm workers
// serve, and the cold ones are left alone until they are retired. With plain poll a shared socket wakes
// everybody (measured with 256 workers: 2,100–2,600 connections/s, against 25,000–31,000).
//
// Each socket has wake-ups of its own: who was woken by one looks there first. If it took a connection of
// another one instead, whose waiter was woken too, that waiter would find nothing and sleep on (the kernel
// looks before it returns), and nobody would know of the first. A waiter takes one wake-up at a time: it
// leaves the epoll instance's queue with it, and what becomes ready meanwhile wakes the next one. So the
// first event that is reported is the one that woke it, or that one is gone already.
// (tests/model/sockets.pml)
//
// The price: a waiter that was woken and dies before it accepts takes the wake-up with it. So whoever
// leaves makes a last try_accept() after unregister(), and after an abnormal death the supervisor nudges
// others. (tests/model/retirement.pml)
#pragma once

#include <signal.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "base/address.h"
#include "base/fd.h"

namespace preforkd {

struct Accepted {
  UniqueFd fd;  // blocking, CLOEXEC
  SocketAddress peer;
  SocketAddress local;  // of length 0 until somebody asks the kernel, or a proxy has said it
};

class Acceptor {
 public:
  // The listen sockets are borrowed, the vector too.
  explicit Acceptor(const std::vector<int>& listen_sockets);

  // Takes a connection that already waits, from the sockets in turn, beginning with the one that wait() was
  // woken by. Nothing: none waits, or it was gone again, or descriptors or memory ran out (then short_of()
  // says which). Bit i of `which`: the i-th socket; those beyond 64 are tried only with all of the bits.
  static constexpr uint64_t kAll = ~uint64_t{0};
  std::optional<Accepted> try_accept(uint64_t which = kAll);
  // EMFILE, ENFILE, ENOBUFS or ENOMEM if the last try_accept() met it, else 0. Level-triggered epoll
  // would return at once for as long as this lasts: the caller backs off.
  int short_of() const { return short_of_; }
  // What else went wrong in it, or 0: a listen socket that a handler closed (EBADF) or shut down (EINVAL).
  int broken() const { return broken_; }

  // The first wait() registers: a worker that is forked because a connection waits takes that before it needs
  // an epoll instance. Throws SysError.
  //
  // While a worker is busy its registration may stay, which keeps the order in which workers are woken;
  // but the kernel walks past every busy registration at each connection.
  void register_for_wake();
  void unregister();
  bool is_registered() const { return registered_; }
  // What is readable while a connection waits, for who waits by other means; all of those are woken. Registered.
  int descriptor() const { return epoll_.get(); }

  // Sleeps until a connection waits or a signal that `unblocked` lets through arrives; at most
  // `timeout_ms` (-1: for ever). False: a signal has ended it. Throws SysError if it cannot wait at all.
  bool wait(const sigset_t& unblocked, int timeout_ms);

 private:
  const std::vector<int>& sockets_;
  UniqueFd epoll_;
  size_t next_ = 0;
  int short_of_ = 0;
  int broken_ = 0;
  bool registered_ = false;
};

}  // namespace preforkd
