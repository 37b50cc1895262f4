#include "log/queues.h"

#include <utility>

namespace preforkd {
namespace {

size_t size_of(const Entry& entry) { return sizeof entry + entry.text.size(); }

}  // namespace

Entry Queues::missing(const std::string& source, uint64_t lines) {
  Entry said;
  said.level = LogLevel::kWarning;
  std::string of;
  if (source == kOfControl)
    of = " of control";
  else if (source == kOfDaemon)
    of = " of the daemon";
  else
    said.pool = source;
  said.text = std::to_string(lines) + " lines" + of +
              " were lost: they come faster than they are read, or than one may write them";
  return said;
}

void Queues::expect_turn(const std::string& source, Queue& queue) {
  if (!std::exchange(queue.has_turn, true)) turns_.push_back(source);
}

void Queues::push(const std::string& source, Entry entry) {
  Queue& queue = queues_[source];
  const size_t size = size_of(entry);
  queue.is_full |= queue.bytes + size > kMostOfSource;
  expect_turn(source, queue);
  if (queue.is_full) {
    ++queue.lost;
    return;
  }
  if (queue.lost > 0) {
    queue.entries.push_back(missing(source, std::exchange(queue.lost, 0)));
    queue.bytes += size_of(queue.entries.back());
  }
  queue.bytes += size;
  queue.entries.push_back(std::move(entry));
}

void Queues::count_lost(const std::string& source, uint64_t lines) {
  if (lines == 0) return;
  Queue& queue = queues_[source];
  queue.lost += lines;
  expect_turn(source, queue);
}

std::optional<Entry> Queues::pop() {
  if (turns_.empty()) return std::nullopt;
  std::string source = std::move(turns_.front());
  turns_.pop_front();
  Queue& queue = queues_[source];
  std::optional<Entry> next;
  if (queue.entries.empty()) {
    next = missing(source, std::exchange(queue.lost, 0));
  } else {
    next = std::move(queue.entries.front());
    queue.entries.pop_front();
    queue.bytes -= size_of(*next);
    if (queue.bytes <= kMostOfSource / 2) queue.is_full = false;
  }
  if (queue.entries.empty() && queue.lost == 0)
    queues_.erase(source);
  else
    turns_.push_back(std::move(source));
  return next;
}

}  // namespace preforkd
