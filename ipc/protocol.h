// What the processes of one preforkd must have in common before one says anything to another. The daemon executes the
// programs of its own version (daemon/held_file.h), so both numbers are the same by themselves, but where somebody
// mixes files of two versions, or writes over a file that the daemon could not copy.
//
//   protocol   messages (ipc/*_messages.h), descriptors, arguments and the documents among them: raised when one of
//              them changes its meaning. One daemon takes over from another only where both have the same, for it goes
//              on with the supervisors of that.
//   layout     what lies where in shared memory (shm/layout.h), among supervisor, workers, libpreforkd and control. It
//              may change over an upgrade in place: supervisors go on with theirs until their pool is recycled.
//
// Each program that the daemon starts is given both as its first argument, and ends with kSpeaksAnother and a line on
// stderr before it does anything else, if they are not its own. With --speaks behind it, that was all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace preforkd {

inline constexpr uint32_t kProtocol = 1;
inline constexpr int kSpeaksAnother = 76;  // EX_PROTOCOL of sysexits.h
inline constexpr uint32_t kNoLayout = 0;   // of who never looks into shared memory: any will do

std::string protocol_option(uint32_t layout);  // "--protocol=1.3"
inline constexpr char kSpeaksOption[] = "--speaks";

// The programs' first act. Does not return where they do not speak the same, nor when that was all that is asked:
// status 0, and the number as it was asked for on stdout, if this program's file is whole, too. Whoever has no number as its first argument was not started by the
// daemon, and is sent away by what reads its arguments.
void expect_protocol(int argc, char** argv, uint32_t layout);
bool is_protocol_option(std::string_view argument);

// Why this program cannot be relied on: its file ends before what should be mapped of it; or "".
std::string trouble_with_own_file();

}  // namespace preforkd
