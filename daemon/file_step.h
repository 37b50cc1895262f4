// A step in somebody's folder: the file system may hang there (a server of NFS that is gone, FUSE), and hold whoever asks
// it for as long. So a child asks, and the daemon waits for that no longer than kFileStepLasts.
//
// The child has the daemon's memory and user, and of its descriptors those only that the step is about: it is no
// supervisor's daemon when that has died. One that is late is killed. As long as it lives even so (within the kernel
// there are waits that nothing ends), and for a while that doubles with each late one, no other is asked about that
// folder: the step fails at once. So however many sockets are in it, and however often they are tried, the daemon stands
// still for one step now and then, and has one such child.
//   A late child may have done its step after all. Who tries again looks first whether that is so.
//   SIGKILL of the daemon: the child is killed with it. One that its kernel holds then goes on when it is let go, and
// dies before its next system call. SIGKILL of the child: the step has failed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "base/clock.h"

namespace preforkd {

// With it, what is asked of the daemon is still done within a second.
inline constexpr Nanoseconds kFileStepLasts = 800 * kMillisecond;

// What a step is about, or has made. inode 0: nothing.
struct FileId {
  uint64_t device = 0, inode = 0;
  bool operator==(const FileId&) const = default;
};

// "VERB: its file system does not answer".
class NoAnswer : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Makes the step in a child that has the descriptor `keeps` (-1: none), and returns what the step returned. Throws
// NoAnswer; SysError and std::runtime_error that the step has thrown, or that there is no child.
FileId in_file_system(const std::string& verb, const std::string& folder, int keeps,
                      const std::function<FileId()>& step);

// Whether this child of the daemon is a late one, which has nothing to do with any pool.
bool is_late_file_step(pid_t child);

}  // namespace preforkd
