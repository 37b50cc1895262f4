// What is left of a generation when its last process is gone: its final figures, and the sums of all
// closed generations of a pool as an opaque record, which the daemon keeps while control may come and
// go. Pure. Written and read by control alone; the daemon never looks inside.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "ipc/info.h"
#include "shm/reader.h"

namespace preforkd {

// The sums at the end of a generation that nobody works in any more. What its dead left behind is settled:
//   A live slot that never had a process is none. One without a connection in hand has retired.
//   One with has crashed, and the connection has failed; but for a program of which the daemon, which has reaped it,
//   says how it has ended: that counts as if its supervisor had lived (supervisor/workforce.cc).
//   Of a supervisor that was killed in a row of forks the last ones are not in its count: all that have ended were forked.
shm::Counters final_figures(const shm::Snapshot& snapshot, const PoolInfo::Generation& info);

std::string pack_totals(const shm::Counters& figures);
// Nothing if it is not such a record, or one of another version.
std::optional<shm::Counters> unpack_totals(std::string_view bytes);

}  // namespace preforkd
