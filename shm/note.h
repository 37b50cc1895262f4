// What a handler says that it is doing ("GET /x"), in a worker's slot, so that a person who lists the workers
// sees it. At most 127 bytes, and a NUL.
//
// Stored by words and without a lock: a reader that looks while the note changes may see the beginning of the
// new one and the end of the old one. A worker killed meanwhile leaves the same; the supervisor empties the
// slot. Whatever is in there, note_text() is one line of printable ASCII: it goes to terminals.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "shm/layout.h"

namespace preforkd::shm {

using NoteWords = std::array<uint64_t, kNoteWords>;

// Called by the worker that owns the slot. What is too long is cut.
void store_note(Slot& slot, std::string_view text);
inline void clear_note(Slot& slot) { slot.note[0].store(0, std::memory_order_relaxed); }

NoteWords load_note(const Slot& slot);
std::string note_text(
    const NoteWords& words);  // "": there is none; other characters are shown as "?"

}  // namespace preforkd::shm
