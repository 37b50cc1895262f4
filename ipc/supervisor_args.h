// What the daemon hands to a supervisor: which descriptor is what, and the numbers that are not settings.
// Both sides include this; nothing else knows it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace preforkd {

// With this status a supervisor ends that cannot tell the daemon why: a handler's preload closed its channel.
inline constexpr int kWithoutChannel = 69;  // EX_UNAVAILABLE of sysexits.h

// Descriptors of a supervisor at its start. Listen sockets follow from kFirstListenFd on.
enum SupervisorFd : int {
  kOrdersFd = 3,    // a Channel from the daemon; --check: not there
  kReportsFd = 4,   // an Outbox to it; --check: not there
  kSettingsFd = 5,  // the pool's settings as JSON (conf/pool_json.h), without its lists of networks
  kSegmentFd = 6,   // the pool's shared memory, read-write; --check: only with --try-out
  kHandlerFd = 7,   // the handler's file, opened by the daemon; not there for a program
  // Of one that accepts by itself: libpreforkd, as the daemon has it; it may be missing.
  kLibraryFd = 7,
  kNetworksFd = 8,  // the pool's lists of networks (conf/network_lists.h); --check: as kSegmentFd
  kFirstListenFd = 9,
};

struct SupervisorArgs {
  bool check =
      false;  // only say whether the handler or program could run; exits 0, or 1 with the reason on stdout
  bool try_out =
      false;  // --check: of a program to be forked from, do so; `capacity`, `folder`, `library`
  uint32_t generation = 0;
  uint32_t capacity = 0;
  uint32_t listen_sockets = 0;
  uint32_t own_sockets =
      0;  // the first so many of them; the others were inherited and outlive preforkd
  uint32_t first_workers = 0;  // to begin with as many, if that is more than `min`
  uint32_t log_level = 6;
  std::string folder;     // its own; what a program that accepts by itself needs lies there
  std::string library;    // the path of libpreforkd, for want of kLibraryFd
  bool on_trial = false;  // no worker accepts before the order to serve

  // `protocol`: ipc/protocol.h.
  std::vector<std::string> to_argv(const std::string& title, const std::string& protocol) const;
  // Throws std::runtime_error: it was not the daemon who called.
  static SupervisorArgs from_argv(int argc, char** argv);
};

}  // namespace preforkd
