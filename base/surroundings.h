// What a process has from whoever started it though nobody meant it: closed standard descriptors, ignored and blocked
// signals, an alarm, a file mode mask, soft limits of descriptors and of the size of files. Set right as the first act of each program, before
// anything is opened or forked: a log line must not go to the client whose socket was given descriptor 2, and who was
// started with SIGCHLD ignored (trap '' CHLD) would never hear of a child's death.
//
// What programs of pools are to have as it was, is remembered, and put back right before each exec: the mask and the size,
// which whoever started preforkd may have chosen for their files, and the soft limit of descriptors, which hurts who uses select(2) or closes
// all descriptors when it is as high as preforkd wants it. So each image finds what the first one found, and remembers it
// itself: nothing is handed over otherwise, to a supervisor or over an upgrade in place. (Signals are not handed on: what
// is executed begins with none ignored or blocked.)
//
// One thread, and the state is the process's own, as these things are.
#pragma once

#include <sys/resource.h>

#include <initializer_list>

namespace preforkd {

// /dev/null for whichever of 0 (to read), 1 and 2 (to write) is closed; all signals at their defaults, none blocked or
// pending; no alarm; the soft limit of descriptors as high as the hard one. But those `kept` are blocked, and stay
// pending if they are: the process takes them up when it is ready to. Without /dev/null it ends with 71.
void put_surroundings_right(std::initializer_list<int> kept = {});

// For who makes files of preforkd's own (the daemon): others must be able to reach them, so the mask becomes 022; and what
// is shared in memory is a file to the kernel, so the soft limit of their size becomes the hard one.
void have_own_files();

// What a process that has not done that may write meanwhile: as large as the hard limit lets it, and what is larger is an
// error (EFBIG), and not its end by SIGXFSZ.
class RoomForLargeFile {
 public:
  RoomForLargeFile();
  ~RoomForLargeFile();
  RoomForLargeFile(const RoomForLargeFile&) = delete;
  RoomForLargeFile& operator=(const RoomForLargeFile&) = delete;

 private:
  rlimit before_{};
  void (*action_)(int);
};

// The soft limit of descriptors as this process was started with it, and the hard one.
rlimit inherited_nofile();

// Right before an exec: the mask and the soft limits are as they were at the start. Only what may be called in a signal
// handler. Does nothing in a process that has not put them right.
void hand_on_surroundings();
// The exec has failed.
void take_surroundings_back();

}  // namespace preforkd
