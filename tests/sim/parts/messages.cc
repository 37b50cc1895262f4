// The ways for messages between the daemon and its supervisors, in the simulation's memory.
#include "ipc/channel.h"
#include "ipc/message_pipe.h"
#include "tests/sim/kernel.h"

namespace preforkd {
namespace {

using sim::kernel;
using sim::MessageEnd;

std::pair<UniqueFd, UniqueFd> make_ends() {
  const pid_t daemon = kernel->current()->pid;
  auto& one = kernel->open(std::make_unique<MessageEnd>(), daemon);
  auto& other =
      kernel->open(std::make_unique<MessageEnd>(), 0);  // its supervisor's, once there is one
  one.peer = &other;
  other.peer = &one;
  return {UniqueFd(one.fd), UniqueFd(other.fd)};
}

Channel::Sent send_by(int fd, std::span<const std::byte> first, std::span<const std::byte> second) {
  kernel->step();
  auto* end = kernel->file<MessageEnd>(fd);
  if (!end || !end->peer) return Channel::Sent::kGone;
  MessageEnd& peer = *end->peer;
  if (peer.messages.size() >= MessageEnd::kRoom) return Channel::Sent::kFull;
  std::string bytes(reinterpret_cast<const char*>(first.data()), first.size());
  bytes.append(reinterpret_cast<const char*>(second.data()), second.size());
  peer.messages.push_back({std::move(bytes), kernel->current()->pid});
  if (peer.raises_sigio) kernel->send_signal(peer.owner, SIGIO);
  kernel->notify(peer);
  return Channel::Sent::kYes;
}

Channel::Got receive_by(int fd, std::string& bytes) {
  kernel->step();
  auto* end = kernel->file<MessageEnd>(fd);
  if (!end || (end->messages.empty() && !end->peer)) return Channel::Got::kGone;
  if (end->messages.empty()) return Channel::Got::kNothing;
  bytes = std::move(end->messages.front().bytes);
  end->last_sender = end->messages.front().sender;
  end->messages.pop_front();
  return Channel::Got::kMessage;
}

}  // namespace

std::pair<UniqueFd, UniqueFd> Channel::make_pair() { return make_ends(); }
std::pair<UniqueFd, UniqueFd> make_message_pipe() { return make_ends(); }

Channel::Sent Channel::send(std::span<const std::byte> first, std::span<const std::byte> second,
                            int) {
  return is_open() ? send_by(fd(), first, second) : Sent::kGone;
}
Channel::Got Channel::receive(Datagram& datagram) {
  return is_open() ? receive_by(fd(), datagram.bytes) : Got::kGone;
}
Outbox::Sent Outbox::send(std::span<const std::byte> first, std::span<const std::byte> second) {
  return is_open() ? send_by(fd(), first, second) : Sent::kGone;
}
Inbox::Got Inbox::receive(std::string& message) {
  return is_open() ? receive_by(fd(), message) : Got::kGone;
}

// Of one that has died nobody vouches.
pid_t Inbox::sender_of(const std::string&) const {
  const pid_t sender = kernel->file<MessageEnd>(fd())->last_sender;
  const sim::Process* process = kernel->find(sender);
  return process && !process->is_dead ? sender : 0;
}

}  // namespace preforkd
