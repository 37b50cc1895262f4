#include "log/writer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "log/shown.h"

namespace preforkd {
namespace {

constexpr std::chrono::seconds kPatience{5};
constexpr size_t kBatch = 64 * 1024;

// All of it, however long that takes. Returns how much: less, with errno, when there is no room for it (a full disk).
size_t write_all(std::string_view text) {
  size_t written = 0;
  while (written < text.size()) {
    ssize_t n = ::write(2, text.data() + written, text.size() - written);
    if (n >= 0) {
      written += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {  // whoever shares it has made it so
      pollfd p{2, POLLOUT, 0};
      poll(&p, 1, -1);
    } else if (errno != EINTR) {
      break;
    }
  }
  return written;
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
    write(text);
    lock.lock();
    written_ += batch.size();
  }
}

// What could not be written before is said first: nobody else knows of it.
void Writer::write(const std::string& text) {
  std::string all;
  if (unwritten_lines_ > 0) {
    Entry missing;
    missing.level = LogLevel::kWarning;
    missing.text = std::to_string(unwritten_lines_) + " lines were lost: " + why_unwritten_;
    all = (is_torn_ ? "\n" : "") + shown(missing, has_stream_);
  }
  const size_t begin = all.size();
  all += text;
  const size_t written = write_all(all);
  if (written < all.size()) why_unwritten_ = std::strerror(errno);
  if (written > 0) is_torn_ = all[written - 1] != '\n';
  if (written >= begin) unwritten_lines_ = 0;
  const auto lost_from = all.begin() + static_cast<ptrdiff_t>(std::max(written, begin));
  unwritten_lines_ += static_cast<uint64_t>(std::count(lost_from, all.end(), '\n'));
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
