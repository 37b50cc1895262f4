#include "shm/note.h"

#include <algorithm>
#include <cstring>

namespace preforkd::shm {

void store_note(Slot& slot, std::string_view text) {
  NoteWords words{};
  std::memcpy(words.data(), text.data(), std::min(text.size(), sizeof words - 1));
  for (size_t i = 0; i < words.size(); ++i) slot.note[i].store(words[i], std::memory_order_relaxed);
}

NoteWords load_note(const Slot& slot) {
  NoteWords words;
  for (size_t i = 0; i < words.size(); ++i) words[i] = slot.note[i].load(std::memory_order_relaxed);
  return words;
}

std::string note_text(const NoteWords& words) {
  const auto* bytes = reinterpret_cast<const char*>(words.data());
  std::string text(bytes, strnlen(bytes, sizeof words));
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

}  // namespace preforkd::shm
