// The title that ps shows: written over the memory of argv, as setproctitle(3) does on BSD.
#pragma once

#include <string_view>

namespace preforkd {

// Once, at the beginning of main: notes where argv lies, and moves the environment out of the way.
void reserve_process_title(int argc, char** argv);

// Replaces the whole command line; cut where the memory ends. Also sets the name of the main thread
// (comm, at most 15 characters) to `comm`.
void set_process_title(std::string_view title, const char* comm);

}  // namespace preforkd
