// The listen socket of a program that knows nothing of preforkd, and accepts by libc's accept(): `accept = "stdin"` or "fd3".
// The program finds a socket of its pool under that number, and whatever it does to wait for a client there, it does as a
// worker: this object is preloaded (LD_PRELOAD), and has libc's functions of interpose/functions.cc.
//
//   what the program does                      what becomes of it
//   waits the first time: accept, poll,
//   select, epoll_wait                         it is through its start; of a template it is the fork point
//   waits again                                idle; whoever is to leave ends here (Interpreter::exit)
//   accept                                     the worker's own: all of the pool's addresses, access, PROXY header, per_source
//   poll, select, epoll_wait                   the client is taken, and the socket is ready: the accept that follows gets it
//   has the connection                         busy, within the connection's deadline
//   closes it, and each copy that dup made     done; a child of a fork that has one yet does not count
//   listen, shutdown, O_NONBLOCK on the
//   socket                                     it is everybody's: nothing happens to it; O_NONBLOCK is remembered for this process
//
// One connection at a time. While that is open the socket is not ready for anybody who asks, and an accept that may block
// waits for its end: another thread may be serving it. It is over, too, when the program has shut down its writing and waits
// again, and when nobody could close it any more: one thread, that waits for a client alone. (It may have been closed by
// fclose(3), or be closed when the next one takes its variable.)
//
// Who waits in accept alone is woken as other workers are, one for a connection. Of those who poll all are woken, for want of
// more in the kernel (worker/acceptor.h), and one has it.
//
// Threads: one waits at a time, whichever it is (turn_); the others wait for that. A connection may be closed by any (state_).
//
// A child of this process is not the worker. One that accepts, before or after the point, would take connections that nobody
// knows of: that is told, as `-t` and the pool's log say it, and ends the worker with its process group.
//
// Killed at any moment: as any worker is (worker/intake.h). One that has taken a client for a poll has begun it.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <atomic>
#include <mutex>
#include <vector>

#include "interpose/deadline.h"
#include "interpose/numbers.h"
#include "worker/this_worker.h"

namespace preforkd {

// As accept(2) and its like do; to null, nothing.
void copy_address(const SocketAddress& from, sockaddr* to, socklen_t* length);

class Listener {
 public:
  // Before the program's own code. From here on the descriptors that were handed on are shielded.
  static void begin(const ServingWorker& worker);
  // Whether begin() was called: else all functions are libc's.
  static bool is_there();
  static const DescriptorNumbers& numbers();
  // Null in a child.
  static Listener* of_this_process();
  // In a child that would accept: see above.
  [[noreturn]] static void end_parent();

  // As the functions of libc's, about the listen socket: -1 and errno.
  int accept(sockaddr* address, socklen_t* length, int flags);
  int poll(pollfd* fds, nfds_t count, const Deadline& until, const sigset_t* mask);
  int control_epoll(int epoll, int operation, int fd, epoll_event* event);
  bool is_asked_in(int epoll);  // it waits for a client there
  int wait_epoll(int epoll, epoll_event* events, int most, const Deadline& until,
                 const sigset_t* mask);
  bool is_nonblocking() const { return is_nonblocking_; }
  void set_nonblocking(bool is) { is_nonblocking_ = is; }

  // A descriptor that is not the program's own is about to be closed, or has got a copy.
  void closes(int fd);
  void copied(int from, int to);
  void shuts_writing() { is_shut_ = true; }
  // Behind a proxy the addresses that the kernel knows are not the client's. Null: those it are.
  const SocketAddress* peer() const;
  const SocketAddress* local() const;

 private:
  // What there is to wait for.
  enum class State { kClient, kOver, kReadable, kInHand, kSignal, kPause };
  struct Watch {
    int epoll, fd;
    epoll_event event;   // as the program has it
    int stands_in = -1;  // what is registered in it for the listen socket
    bool asks() const { return event.events & (EPOLLIN | EPOLLRDNORM); }
  };

  explicit Listener(const ServingWorker& handed) : handed_(handed) {}
  void start();
  State look(bool waits_for_nothing_else);
  State look_or_end(std::unique_lock<std::mutex>& turn, bool waits_for_nothing_else);
  bool is_over(bool waits_for_nothing_else) const;
  bool wait(State state);
  int hand_over(sockaddr* address, socklen_t* length, int flags);
  int wait_descriptor(State state);
  int descriptor_of_end();
  Watch* watch_in(int epoll);
  int error_of_control(int epoll, int operation, int fd, const epoll_event* event);
  static void stand_in(Watch& watch, int fd);
  void watch(int fd);
  static int report_client(Watch* watch, epoll_event* event);

  const ServingWorker handed_;
  ThisWorker* worker_ = nullptr;  // from the point on
  std::mutex turn_;               // held by who waits
  std::mutex state_;              // all below
  bool has_client_ = false;       // taken, and not accepted yet
  int copies_ = 0;                // of the connection in hand that the program has
  std::vector<Watch> watches_;
  int watched_ = -1;  // what stands in for the listen socket in them
  int end_ = -1;      // an eventfd: the one in hand is done
  std::atomic<bool> waits_for_end_{false}, is_nonblocking_{false}, is_shut_{false};
};

}  // namespace preforkd
