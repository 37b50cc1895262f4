#include "tests/soak/crowd.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <optional>
#include <random>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "tests/system/check.h"
#include "tests/system/client.h"

namespace preforkd::system_test {
namespace {

constexpr Nanoseconds kLate =
    100 * kMillisecond;  // who is later than this does not hurry to catch up
constexpr Nanoseconds kBetweenLines = 150 * kMillisecond;

void sleep_until(Nanoseconds when) {
  const timespec until = to_timespec(when);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

sockaddr_in loopback(uint32_t host, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(host);
  address.sin_port = htons(port);
  return address;
}

// One connection, as its client sees it.
class Visit {
 public:
  // From 127.1.NUMBER.1 to .254 in turn: an address has 28,000 ports, and each is taken for a minute.
  Visit(uint16_t port, uint32_t number, uint32_t turn)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (!fd_.is_open()) throw SysError("socket", errno);
    const timeval patience{static_cast<time_t>(kPatience), 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);  // of connect, too
    const int on = 1;
    setsockopt(fd_.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    const sockaddr_in from =
        loopback((127u << 24) | (1u << 16) | (number << 8) | (1 + turn % 254), 0);
    if (bind(fd_.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from) < 0)
      throw SysError("bind a source address", errno);
    const sockaddr_in to = loopback(INADDR_LOOPBACK, port);
    if (connect(fd_.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) < 0) {
      if (errno == EADDRNOTAVAIL) throw SysError("connect: no source port left", errno);
      lose(errno == ECONNREFUSED ? Loss::kRefused : by(errno));
    }
  }

  // Asks who serves. False when the connection is lost.
  bool ask() {
    if (lost_) return false;
    if (send(fd_.get(), "p", 1, MSG_NOSIGNAL) != 1) return lose(by(errno));
    char line[16];
    size_t have = 0;
    while (have == 0 || line[have - 1] != '\n') {
      if (have == sizeof line) return lose(Loss::kWrong);
      const ssize_t got = recv(fd_.get(), line + have, sizeof line - have, 0);
      if (got <= 0) return lose(got == 0 ? Loss::kCutShort : by(errno));
      have += static_cast<size_t>(got);
    }
    const pid_t pid = static_cast<pid_t>(std::strtol(line, nullptr, 10));
    if (pid <= 0 || (server_ && pid != server_)) return lose(Loss::kWrong);
    server_ = pid;
    return true;
  }
  // No more to ask; the server ends the stream.
  bool finish() {
    if (lost_) return false;
    if (shutdown(fd_.get(), SHUT_WR) < 0) return lose(by(errno));
    char more;
    const ssize_t got = recv(fd_.get(), &more, 1, 0);
    return got == 0 || lose(got > 0 ? Loss::kWrong : by(errno));
  }
  const std::optional<Lost>& lost() const { return lost_; }

 private:
  static Loss by(int error) {
    const bool late = error == EAGAIN || error == EINPROGRESS || error == ETIMEDOUT;
    return late ? Loss::kUnanswered : Loss::kReset;
  }
  bool lose(Loss how) {
    sockaddr_in own{};
    socklen_t size = sizeof own;
    getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&own), &size);
    lost_ = {how, server_, false, ntohs(own.sin_port)};
    return false;
  }

  UniqueFd fd_;
  pid_t server_ = 0;
  std::optional<Lost> lost_;
};

}  // namespace

const char* name_of(Loss loss) {
  constexpr std::array kNames{"refused", "reset", "cut short", "wrong", "unanswered"};
  return kNames[static_cast<size_t>(loss)];
}

Crowd::Crowd(const std::string& address, const Shape& shape)
    : port_(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)))),
      began_(monotonic_now()) {
  uint32_t number = 0;
  for (int i = 0; i < shape.threads; ++i, ++number)
    add_thread([=, this] { make_short_ones(number, shape.per_second / shape.threads); });
  for (int i = 0; i < shape.long_ones; ++i, ++number)
    add_thread([=, this] { make_long_ones(number); });
}

template <class Work>
void Crowd::add_thread(Work work) {
  threads_.emplace_back([=, this] {
    try {
      work();
    } catch (const std::exception& e) {
      std::lock_guard lock(mutex_);
      own_trouble_ = e.what();
    }
  });
}

void Crowd::make_short_ones(uint32_t number, double per_second) {
  const Nanoseconds period = per_second > 0 ? from_seconds(1 / per_second) : 0;
  Nanoseconds next = monotonic_now();
  for (uint32_t turn = 0; !stopping_; ++turn) {
    Visit visit(port_, number, turn);
    if (visit.ask() && visit.finish())
      ++short_served_;
    else
      note(*visit.lost());
    if (!period) continue;
    next = std::max(next + period, monotonic_now() - kLate);
    if (next > monotonic_now()) sleep_until(next);
  }
}

void Crowd::make_long_ones(uint32_t number) {
  std::minstd_rand random(number + 1);
  for (uint32_t turn = 0; !stopping_; ++turn) {
    const Nanoseconds until = monotonic_now() + kSecond + random() % (3 * kSecond);
    Visit visit(port_, number, turn);
    bool well = true;
    while ((well = visit.ask()) && !stopping_ && monotonic_now() < until)
      sleep_until(monotonic_now() + kBetweenLines);
    if (well && visit.finish()) {
      ++long_served_;
      continue;
    }
    Lost lost = *visit.lost();
    lost.was_long = true;
    note(lost);
  }
}

void Crowd::note(const Lost& lost) {
  std::lock_guard lock(mutex_);
  lost_.push_back(lost);
}

std::vector<Lost> Crowd::lost() const {
  std::lock_guard lock(mutex_);
  return lost_;
}

double Crowd::seconds() const { return to_seconds((ended_ ? ended_ : monotonic_now()) - began_); }

Crowd::~Crowd() {
  stopping_ = true;
  threads_.clear();
}

void Crowd::stop() {
  stopping_ = true;
  threads_.clear();
  if (!ended_) ended_ = monotonic_now();
  if (!own_trouble_.empty())
    throw Failure("a client of the crowd: " + std::exchange(own_trouble_, ""));
}

}  // namespace preforkd::system_test
