// How an entry is shown. What a pool's program wrote is shown as that pool's, whatever it says of itself: it cannot look
// like a line of the daemon's or of another pool, be more urgent than "err", or have a terminal obey it. Pure.
#pragma once

#include <string>

#include "log/queues.h"

namespace preforkd {

// For descriptor 2, with its line feed: "preforkd: pool echo: text". The journal's stream has sd-daemon's "<6>" in front
// and no name; there a raw line's own "<3>" counts, down to that 3.
std::string shown(const Entry& entry, bool journal_stream);

// Of a raw line: sd-daemon's "<4>" in front, if there is one, becomes the entry's level. 3 ("err") at the most.
void take_priority(Entry& entry);

}  // namespace preforkd
