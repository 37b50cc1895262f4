#include "control/daemon_link.h"

#include <poll.h>
#include <sys/epoll.h>

#include <cstring>
#include <utility>

#include "control/totals.h"

namespace preforkd {
namespace {
// Fewer than the endpoint has places, so that those who only look always find one.
constexpr size_t kMaxAsked = 128;

// How long the daemon may take. What is done at once, or not at all, is not waited for much longer: a pool that
// hangs would keep all who ask of it, and soon there would be no place left for a question of another. A
// verdict comes after a trial, which lasts for as long as the configuration lets it.
constexpr Nanoseconds kForWhatIsDoneAtOnce = 10 * kSecond;
constexpr Nanoseconds kForVerdicts = 600 * kSecond;

constexpr Nanoseconds kToHandIn = 1 * kSecond;  // at the end, to a daemon that reads

Nanoseconds longest(ControlAsk ask) {
  switch (ask) {
    case ControlAsk::kRecycle:
    case ControlAsk::kReload:
    case ControlAsk::kUpgrade:
      return kForVerdicts;
    default:
      return kForWhatIsDoneAtOnce;
  }
}

Answer overdue(const Request& asked) {
  Answer answer;
  answer.id = asked.id;
  answer.status = 504;
  std::string text = "preforkd has not said within " +
                     std::to_string(longest(asked.ask) / kSecond) +
                     " s that this is done; it may be done yet: see 'preforkctl status'";
  if (asked.pool[0] != '\0') text += std::string(" ") + asked.pool;
  text.copy(answer.text, sizeof answer.text - 1);
  return answer;
}
}  // namespace

DaemonLink::DaemonLink(EventLoop& loop, UniqueFd news, UniqueFd requests, Pools& pools, bool mute)
    : loop_(loop),
      news_(std::move(news)),
      requests_(std::move(requests)),
      pools_(pools),
      mute_(mute) {}

DaemonLink::~DaemonLink() {
  loop_.forget(news_.fd());
  loop_.forget(requests_.fd());
}

void DaemonLink::start(Handlers handlers) {
  handlers_ = std::move(handlers);
  loop_.watch(news_.fd(), EPOLLIN, [this](uint32_t) { receive(); });
}

void DaemonLink::receive() {
  bool news = false;
  for (;;) {
    Channel::Datagram datagram;
    Channel::Got got = news_.receive(datagram);
    if (got == Channel::Got::kNothing) break;
    if (got == Channel::Got::kGone || !take(datagram)) {
      loop_.forget(news_.fd());
      if (got == Channel::Got::kGone) hand_in_all();
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
  if (kind == ControlNews::kPing) return pong(), true;
  if (kind != ControlNews::kAnswer) return pools_.learn(datagram);
  auto answer = datagram.as<Answer>();
  if (!answer) return false;
  conclude(*answer);
  return true;
}

// Not to be sent now: the daemon does not read, and will ask again when it does.
void DaemonLink::pong() {
  Request request;
  request.ask = ControlAsk::kPong;
  request.set = handlers_.clients();
  requests_.send_struct(request);
}

// An answer that comes late is to nobody's question any more.
void DaemonLink::conclude(const Answer& answer) {
  auto asked = asked_.extract(answer.id);
  if (!asked) return;
  handlers_.on_answer(asked.mapped().request, answer);
}

bool DaemonLink::ask(const Request& request) {
  if (mute_ || asked_.size() >= kMaxAsked) return false;
  if (requests_.send_struct(request) != Channel::Sent::kYes) return false;
  asked_[request.id] = {
      request, loop_.after(longest(request.ask), [this, request] { conclude(overdue(request)); })};
  return true;
}

Channel::Sent DaemonLink::send_totals(const std::string& pool, uint32_t generation, uint32_t set,
                                      const shm::Counters& figures) {
  Request request;
  request.ask = ControlAsk::kTotals;
  request.id = generation;
  request.set = set;
  pool.copy(request.pool, kPoolNameMax);
  const std::string totals = pack_totals(figures);
  return requests_.send(std::as_bytes(std::span(&request, 1)),
                        std::as_bytes(std::span(totals.data(), totals.size())));
}

// At the end, in case that the next control is of a version that cannot read what this one reads (else nobody listens). A
// daemon that wants to know is reading.
void DaemonLink::hand_in_all() {
  if (mute_) return;
  const Nanoseconds until = monotonic_now() + kToHandIn;
  for (auto& [name, pool] : pools_.all()) {
    if (!pool.is_whole()) continue;  // what the daemon has is more than what is known of it here
    const shm::Counters all = pool.read(monotonic_now()).figures;
    Channel::Sent sent;
    while ((sent = send_totals(name, 0, 1, all)) == Channel::Sent::kFull) {
      pollfd room{requests_.fd(), POLLOUT, 0};
      if (monotonic_now() >= until) return;
      poll(&room, 1, static_cast<int>(kToHandIn / kMillisecond));
    }
    if (sent != Channel::Sent::kYes) return;
  }
}

// What the daemon will keep of generations that are over. Where it takes nothing at the moment, again
// as soon as it does.
void DaemonLink::hand_in_totals() {
  if (mute_) return;
  bool full = false;
  for (auto& [name, pool] : pools_.all()) {
    auto closing = pool.closing(monotonic_now());
    if (!closing) continue;
    auto sent = send_totals(name, closing->generation, 0, closing->totals);
    if (sent == Channel::Sent::kYes) pool.closing_sent(closing->generation);
    if (sent == Channel::Sent::kFull) full = true;
  }
  loop_.forget(requests_.fd());
  if (full) loop_.watch(requests_.fd(), EPOLLOUT, [this](uint32_t) { hand_in_totals(); });
}

}  // namespace preforkd
