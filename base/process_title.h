// The title that ps shows: written over the memory of argv, as setproctitle(3) does on BSD.
#pragma once

#include <sys/prctl.h>

#include <cstddef>
#include <string_view>

#include "base/system_call.h"

namespace preforkd {

// Once, at the beginning of main: notes where argv lies, and moves the environment out of the way.
void reserve_process_title(int argc, char** argv);

struct TitleRoom {
  char* begin = nullptr;
  size_t size = 0;
  size_t used = 0;  // behind it all is zero; as large as `size`: nothing was written yet
};
inline TitleRoom title_room;

// Replaces the whole command line; cut where the memory ends. Also sets the name of the main thread
// (comm, at most 15 characters) to `comm`.
//
// Inline and byte by byte: each worker calls this right after its fork, and a call of memcpy would cost it a
// page fault or two more.
inline void set_process_title(std::string_view title, const char* comm) {
  system_call(SYS_prctl, PR_SET_NAME, comm, 0, 0, 0);
  TitleRoom& room = title_room;
  if (room.size == 0) return;
  const size_t length = title.size() < room.size ? title.size() : room.size - 1;
  volatile char* to = room.begin;
  for (size_t i = 0; i < length; ++i) to[i] = title[i];
  for (size_t i = length; i < room.used; ++i) to[i] = 0;
  // A worker's is shorter than its supervisor's: what it does not write it need not copy.
  if (room.used == room.size || length > room.used) room.used = length;
}

}  // namespace preforkd
