#include "control/daemon_link.h"

#include <sys/epoll.h>

#include <cstring>
#include <utility>

#include "control/totals.h"

namespace preforkd {
namespace {
// Fewer than the endpoint has places, so that those who only look always find one.
constexpr size_t kMaxAsked = 128;
}  // namespace

DaemonLink::DaemonLink(EventLoop& loop, UniqueFd channel, Pools& pools, bool mute)
    : loop_(loop), channel_(std::move(channel)), pools_(pools), mute_(mute) {}

DaemonLink::~DaemonLink() { loop_.forget(channel_.fd()); }

void DaemonLink::start(Handlers handlers) {
  handlers_ = std::move(handlers);
  loop_.watch(channel_.fd(), EPOLLIN, [this](uint32_t events) {
    if (events & EPOLLOUT) hand_in_totals();
    receive();
  });
}

void DaemonLink::receive() {
  bool news = false;
  for (;;) {
    Channel::Datagram datagram;
    Channel::Got got = channel_.receive(datagram);
    if (got == Channel::Got::kNothing) break;
    if (got == Channel::Got::kGone || !take(datagram)) {
      loop_.forget(channel_.fd());
      handlers_.on_end(got == Channel::Got::kGone);
      return;
    }
    news = true;
  }
  if (!news) return;
  handlers_.on_news();
  hand_in_totals();
}

bool DaemonLink::take(Channel::Datagram& datagram) {
  ControlNews kind{};
  datagram.bytes.copy(reinterpret_cast<char*>(&kind), sizeof kind);
  if (kind != ControlNews::kAnswer) return pools_.learn(datagram);
  auto answer = datagram.as<Answer>();
  if (!answer) return false;
  if (auto asked = asked_.extract(answer->id)) handlers_.on_answer(asked.mapped(), *answer);
  return true;
}

bool DaemonLink::ask(const Request& request) {
  if (mute_ || asked_.size() >= kMaxAsked) return false;
  if (channel_.send_struct(request) != Channel::Sent::kYes) return false;
  asked_[request.id] = request;
  return true;
}

// What the daemon will keep of generations that are over. Where it takes nothing at the moment, again
// as soon as it does.
void DaemonLink::hand_in_totals() {
  if (mute_) return;
  bool full = false;
  for (auto& [name, pool] : pools_.all()) {
    auto closing = pool.closing(monotonic_now());
    if (!closing) continue;
    Request request;
    request.ask = ControlAsk::kTotals;
    request.id = closing->generation;
    name.copy(request.pool, kPoolNameMax);
    std::string totals = pack_totals(closing->totals);
    auto sent = channel_.send(std::as_bytes(std::span(&request, 1)),
                              std::as_bytes(std::span(totals.data(), totals.size())));
    if (sent == Channel::Sent::kYes) pool.closing_sent(closing->generation);
    if (sent == Channel::Sent::kFull) full = true;
  }
  loop_.change(channel_.fd(), full ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

}  // namespace preforkd
