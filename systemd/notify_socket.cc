#include "systemd/notify_socket.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/attachment.h"
#include "base/clock.h"

namespace preforkd {
namespace {

// Of a systemd that has read nothing for so long only the last is of interest.
constexpr size_t kMostWaiting = 4096;

}  // namespace

NotifySocket& NotifySocket::of_process() {
  static auto* const one =
      new NotifySocket;  // never destroyed: whoever is, may have something to say
  return *one;
}

void NotifySocket::retry_by(EventLoop* loop) {
  watch(false);
  loop_ = loop;
  flush();
}

void NotifySocket::watch(bool for_room) {
  if (!loop_ || is_watched_ == for_room) return;
  is_watched_ = for_room;
  if (for_room)
    loop_->watch(socket_.get(), EPOLLOUT, [this](uint32_t) { flush(); });
  else
    loop_->forget(socket_.get());
}

void NotifySocket::send(std::string message, Kind kind, UniqueFd descriptor) {
  const char* name = std::getenv("NOTIFY_SOCKET");
  if (!name || !*name) return;
  auto older = std::find_if(waiting_.begin(), waiting_.end(),
                            [kind](const Message& m) { return m.kind == kind; });
  if (kind != Kind::kEach && older != waiting_.end()) waiting_.erase(older);
  if (waiting_.size() == kMostWaiting) waiting_.pop_front();
  waiting_.push_back({std::move(message), kind, std::move(descriptor)});
  flush();
}

void NotifySocket::flush() {
  while (!waiting_.empty() && send_one(waiting_.front())) waiting_.pop_front();
  watch(!waiting_.empty());
}

// What cannot be sent at all is taken for sent: a manager that is not there is no reason to do anything else.
bool NotifySocket::send_one(const Message& message) {
  if (!socket_.is_open() && !connect()) return true;
  iovec part{const_cast<char*>(message.text.data()), message.text.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Attachment along;
  if (message.descriptor.is_open()) along.attach(header, message.descriptor.get());
  for (bool again = true;;) {
    if (sendmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return false;
    if (errno == ENOBUFS || errno == ENOMEM) {
      sleep_for(kMillisecond);  // the loop asks again at once: there is room, but no memory
      return false;
    }
    // Another manager has the name by now.
    watch(false);
    socket_.reset();
    if (!std::exchange(again, false) || !connect()) return true;
  }
}

// Connected, the loop can tell when there is room.
bool NotifySocket::connect() {
  const std::string_view name = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{AF_UNIX, {}};
  if ((name[0] != '/' && name[0] != '@') || name.size() >= sizeof address.sun_path) return false;
  name.copy(address.sun_path, sizeof address.sun_path - 1);
  if (name[0] == '@') address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  socket_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket_.is_open() &&
      ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), size) < 0)
    socket_.reset();
  return socket_.is_open();
}

}  // namespace preforkd
