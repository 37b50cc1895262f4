#include "daemon/file_watch.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "base/log.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kRest = 100 * kMillisecond;
constexpr int kAll = -1;  // more has happened than the kernel keeps

}  // namespace

FileWatch::FileWatch(EventLoop& loop, OnChange on_change)
    : loop_(loop), on_change_(std::move(on_change)) {}

FileWatch::~FileWatch() {
  if (inotify_.is_open()) loop_.forget(inotify_.get());
}

void FileWatch::begin() {
  inotify_.reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify_.is_open()) {
    if (!std::exchange(said_, true))
      log_warning(std::string("watch the files of sockets: ") + std::strerror(errno) +
                  ": that one is removed, only a reload will see");
    return;
  }
  loop_.watch(inotify_.get(), EPOLLIN, [this](uint32_t) { read_events(); });
}

bool FileWatch::was_tried(const std::shared_ptr<Listener>& listener) const {
  return std::any_of(tried_.begin(), tried_.end(),
                     [&](const auto& one) { return one.lock() == listener; });
}

void FileWatch::watch(const Listeners& listeners) {
  std::erase_if(tried_, [](const auto& one) { return one.expired(); });
  for (const auto& listener : listeners) {
    if (!listener->has_path() || !listener->is_listening() || was_tried(listener)) continue;
    if (!inotify_.is_open()) begin();
    if (!inotify_.is_open()) return;
    tried_.push_back(listener);
    bool is_there = true;
    const int number = listener->watch_file(inotify_.get(), is_there);
    // (What is there else may be another pool's, whose watch it is then.)
    if (number >= 0 && is_there)
      watched_[number] = listener;
    else if (number >= 0 && !watched_.contains(number) && !others_.contains(number))
      inotify_rm_watch(inotify_.get(), number);
    if (!is_there) on_change_(listener);
  }
}

void FileWatch::watch(const SocketPath& path, std::function<void()> on_change) {
  if (!path.is_ours()) return;
  if (!inotify_.is_open()) begin();
  if (!inotify_.is_open()) return;
  bool is_there = true;
  const int number = path.watch(inotify_.get(), is_there);
  if (!is_there) on_change();
  if (number >= 0) others_[number] = std::move(on_change);
}

void FileWatch::read_events() {
  alignas(inotify_event) char buffer[16 * 1024];
  std::set<int> numbers, gone;
  const ssize_t size = read(inotify_.get(), buffer, sizeof buffer);
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
    numbers.insert(event->wd);
    if (event->mask & IN_IGNORED) gone.insert(event->wd);
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  Listeners changed;
  for (const auto& [number, weak] : watched_)
    if (numbers.contains(number) || numbers.contains(kAll))
      if (auto listener = weak.lock()) changed.push_back(std::move(listener));
  std::vector<std::function<void()>> calls;
  for (const auto& [number, on_change] : others_)
    if (numbers.contains(number) || numbers.contains(kAll)) calls.push_back(on_change);
  std::erase_if(others_, [&](const auto& entry) { return gone.contains(entry.first); });
  std::erase_if(watched_, [&](const auto& entry) {
    return gone.contains(entry.first) || entry.second.expired();
  });
  // A tenth of the daemon's time at most: who owns the folders decides how often there are looks, and how slow they are.
  const Nanoseconds began = monotonic_now();
  for (const auto& listener : changed) on_change_(listener);
  for (const auto& call : calls) call();
  loop_.change(inotify_.get(), 0);
  rest_timer_ = loop_.after(std::max(kRest, 9 * (monotonic_now() - began)),
                            [this] { loop_.change(inotify_.get(), EPOLLIN); });
}

}  // namespace preforkd
