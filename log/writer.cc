#include "log/writer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "log/shown.h"

namespace preforkd {
namespace {

constexpr std::chrono::seconds kPatience{5};
constexpr size_t kBatch = 64 * 1024;

// All of it, however long that takes; what cannot be written is lost.
void write_all(std::string_view text) {
  while (!text.empty()) {
    ssize_t n = ::write(2, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {  // whoever shares it has made it so
      pollfd p{2, POLLOUT, 0};
      poll(&p, 1, -1);
    } else if (errno != EINTR) {
      return;
    }
  }
}

}  // namespace

Writer::Writer() : has_stream_(stderr_is_journal()) {
  thread_ = std::thread([this] { run(); });
}

void Writer::put(const std::string& source, Entry entry) {
  std::lock_guard lock(mutex_);
  queues_.push(source, std::move(entry));
  something_.notify_one();
}

void Writer::count_lost(const std::string& source, uint64_t lines) {
  std::lock_guard lock(mutex_);
  queues_.count_lost(source, lines);
  something_.notify_one();
}

// Many lines in one write: whoever has written each by itself is not faster.
void Writer::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    std::vector<Entry> batch;
    for (size_t bytes = 0; bytes < kBatch && !queues_.is_empty();) {
      batch.push_back(*queues_.pop());
      bytes += batch.back().text.size();
    }
    is_idle_ = batch.empty();
    done_.notify_one();
    if (is_idle_) {
      if (is_over_) return;
      something_.wait(lock);
      continue;
    }
    lock.unlock();
    std::string text;
    for (Entry& entry : batch)
      if (!journal_.is_open() || !send_to_journal(entry)) text += shown(entry, has_stream_);
    write_all(text);
    lock.lock();
    written_ += batch.size();
  }
}

bool Writer::send_to_journal(const Entry& entry) const {
  if (!entry.is_raw) return journal_.send(entry.line(), log_text(entry.line()));
  Entry told = entry;
  take_priority(told);
  return journal_.send(told.line(), told.text);
}

void Writer::finish() {
  std::unique_lock lock(mutex_);
  for (uint64_t before = written_;; before = written_) {
    auto is_done = [this] { return is_idle_ && queues_.is_empty(); };
    if (done_.wait_for(lock, kPatience, is_done)) break;
    if (written_ == before) return thread_.detach();
  }
  is_over_ = true;
  something_.notify_one();
  lock.unlock();
  thread_.join();
}

}  // namespace preforkd
