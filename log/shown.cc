#include "log/shown.h"

#include <algorithm>

namespace preforkd {

void take_priority(Entry& entry) {
  const std::string& text = entry.text;
  if (text.size() < 3 || text[0] != '<' || text[1] < '0' || text[1] > '7' || text[2] != '>') return;
  entry.level = static_cast<LogLevel>(std::max(text[1] - '0', static_cast<int>(LogLevel::kError)));
  entry.text.erase(0, 3);
}

std::string shown(const Entry& entry, bool journal_stream) {
  if (!entry.is_raw) return stderr_text(entry.line(), journal_stream);
  Entry told = entry;
  std::string front = "preforkd: ";
  if (journal_stream) {
    take_priority(told);
    front = "<" + std::to_string(static_cast<int>(told.level)) + ">";
  }
  if (!told.pool.empty()) front += "pool " + told.pool + ": ";
  return front + without_controls(told.text) + "\n";  // not cut: kMostOfRawLine bounds it
}

}  // namespace preforkd
