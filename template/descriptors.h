// The descriptors of a process that is about to be forked from, as far as its siblings must not share what is open there. A
// fork copies the numbers; the open file behind each, with its offset or with what waits to be read from it, stays one for all.
//
// What each is, and what becomes of it in a worker:
//   a regular file or a folder, open for reading,
//   or for reading and writing                       opened again, at the same offset
//   an epoll instance                                made anew, with the same registrations
//   an eventfd; a pipe, or a pair of Unix sockets,
//   whose both ends are here                         made anew; pipe and pair must be empty
//   a Unix datagram socket connected to a name
//   (syslog's)                                       connected again
//   what is written to only, or at the end; a
//   listen socket; a device; a signalfd; a process
//   (pidfd)                                          shared: nobody takes from others
//   any other socket; an end of somebody else's
//   pipe to read from; inotify, a timerfd,
//   io_uring, anything unknown                       refused: one worker would take what another waits for
//
// Two numbers of one open file (dup(2)) stay that in the worker.
#pragma once

#include <sys/epoll.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace preforkd {

class SharedDescriptors {
 public:
  // Looks at all but `ours`, in numerical order. "", or what stands in the way: "descriptor 5 is a connection to
  // 127.0.0.1:5432". Throws SysError.
  std::string look(const std::vector<int>& ours);

  // In a worker: it has its own from now on. Throws SysError.
  void renew() const;

 private:
  struct Open {
    int fd = -1;
    int flags = 0;  // of the open file: F_GETFL
    dev_t device = 0;
    ino_t inode = 0;
    std::string name;  // as /proc has it
  };
  struct Event : Open {
    unsigned count = 0;
    bool is_semaphore = false;
  };
  struct Poll : Open {
    std::vector<std::pair<int, epoll_event>> registrations;
  };
  struct Datagram : Open {
    std::string peer;  // as sockaddr_un has it
  };
  struct SocketEnd : Open {
    int type = 0;
    ino_t other_end = 0;  // 0: not known
  };

  std::string look_at_file(const Open& open);
  std::string look_at_socket(const Open& open);
  std::string look_at_unnamed(const Open& open);
  std::string look_at_event(const Open& open);
  std::string look_at_poll(const Open& open);
  std::string look_at_pipes();
  std::string look_at_pairs();
  bool is_copy(const Open& open);

  std::vector<Open> seen_;                   // of those that are made anew
  std::vector<std::pair<int, int>> copies_;  // a number, and the one that it is a copy of
  std::vector<Open> files_, pipe_ends_;
  std::vector<SocketEnd> socket_ends_;
  std::vector<Event> events_;
  std::vector<Poll> polls_;
  std::vector<Datagram> datagrams_;
  std::vector<std::pair<Open, Open>> pipes_;  // to read from, to write to
  std::vector<std::pair<SocketEnd, SocketEnd>> pairs_;
};

}  // namespace preforkd
