#include "worker/gate.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/networks.h"
#include "base/standstill.h"
#include "shm/admissions.h"
#include "worker/proxy_protocol.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kHeaderTime = 5 * kSecond;
constexpr Nanoseconds kTellAgain = 10 * kSecond;

// Takes bytes that belong to the header, and no others: what follows is the handler's.
class HeaderReader {
 public:
  HeaderReader(int fd, Nanoseconds deadline) : fd_(fd), deadline_(deadline) {}

  std::string_view bytes() const { return bytes_; }
  // Reads on until there are `size` bytes. False: it ended, or took too long; error() says which.
  bool read_to(size_t size) {
    while (bytes_.size() < size)
      if (!receive(size - bytes_.size(), 0)) return false;
    return true;
  }
  // Reads on up to a line's end; false: as above, or there is none within `most` bytes.
  bool read_line(size_t most) {
    while (!bytes_.ends_with("\r\n")) {
      if (bytes_.size() >= most) return fail("no end of line within 107 bytes");
      const size_t before = bytes_.size();
      if (!receive(most - before, MSG_PEEK)) return false;
      const size_t end = bytes_.find('\n', before);
      const size_t ours = (end == bytes_.npos ? bytes_.size() : end + 1) - before;
      bytes_.resize(before);
      if (!receive(ours, 0)) return false;
      if (end != bytes_.npos && !bytes_.ends_with("\r\n")) return fail("a line feed by itself");
    }
    return true;
  }
  const std::string& error() const { return error_; }

 private:
  bool fail(const char* error) {
    error_ = error;
    return false;
  }
  bool receive(size_t most, int flags) {
    for (;;) {
      const Nanoseconds now = monotonic_now();
      if (now >= deadline_) return fail("not whole within 5 s");
      pollfd readable{fd_, POLLIN, 0};
      const Nanoseconds look_at = next_look(deadline_, now);
      const int count = poll(&readable, 1, static_cast<int>((look_at - now) / kMillisecond) + 1);
      deadline_ += stood_still(now, look_at, monotonic_now());
      if (count <= 0) continue;
      char more[512];
      const ssize_t got = recv(fd_, more, std::min(most, sizeof more), flags | MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (got <= 0) return fail("it ended before it was whole");
      bytes_.append(more, static_cast<size_t>(got));
      return true;
    }
  }

  const int fd_;
  Nanoseconds deadline_;
  std::string bytes_, error_;
};

std::optional<ProxyHeader> read_proxy_header(int fd, Nanoseconds deadline, std::string& error) {
  HeaderReader reader(fd, deadline);
  std::optional<ProxyHeader> header;
  if (!reader.read_to(kProxyLeast)) {
    error = reader.error();
  } else if (reader.bytes().starts_with(kProxySignature)) {
    if (!reader.read_to(kProxyFixed2)) return error = reader.error(), std::nullopt;
    const auto size = proxy_block_size(reader.bytes(), error);
    if (!size) return std::nullopt;
    if (!reader.read_to(*size)) return error = reader.error(), std::nullopt;
    header = parse_proxy_block(reader.bytes(), error);
  } else if (!reader.bytes().starts_with("PROXY ")) {
    error = "it does not begin with one";
  } else if (!reader.read_line(kProxyLongest1)) {
    error = reader.error();
  } else {
    header = parse_proxy_line(reader.bytes(), error);
  }
  return header;
}

}  // namespace

GateRules::GateRules(const PoolSettings& settings, const NetworkLists& lists)
    : access(lists.access()),
      trusted(lists.trusted()),
      proxy_protocol(settings.proxy_protocol),
      per_source(settings.per_source),
      let_all_in(access.has_all() && !proxy_protocol && per_source == 0) {}

std::optional<Rejection> GateRules::rejects(const SocketAddress& connected) const {
  const auto address = ip_of(connected);
  if (!address) return std::nullopt;
  const RangeSet& wanted = proxy_protocol ? trusted : access;
  if (!wanted.contains(number_of(*address)))
    return proxy_protocol ? Rejection::kUntrusted : Rejection::kDenied;
  return std::nullopt;
}

void RejectionLog::tell(const SocketAddress& peer, Rejection reason, const std::string& why) {
  const Nanoseconds now = monotonic_now();
  Nanoseconds& told = told_at_[static_cast<size_t>(reason)];
  if (told != 0 && now < told + kTellAgain) return;
  log_warning("refused " + to_string(peer) + ": " + why);
  told = now;
}

bool Gate::lets_in(Accepted& connection) {
  if (rules_.let_all_in) return true;
  const auto rejected = rules_.rejects(connection.peer);
  if (rejected == Rejection::kUntrusted)
    return refuse(connection, *rejected, "not one of the trusted proxies");
  if (rules_.proxy_protocol) {
    const auto header = read_header(connection);
    if (!header) return false;
    if (header->is_local) return true;
  }
  const auto client = ip_of(connection.peer);
  if (!client) return true;
  if (rejected || (rules_.proxy_protocol && !rules_.access.contains(number_of(*client))))
    return refuse(connection, Rejection::kDenied, "access is denied");
  if (rules_.per_source) {
    admitted_ = shm::admit(mapping_, slot_, source_of(*client), rules_.per_source);
    if (!admitted_)
      return refuse(connection, Rejection::kPerSource,
                    "it has " + std::to_string(rules_.per_source) + " connections already");
  }
  return true;
}

void Gate::left() {
  if (admitted_) shm::end_admission(mapping_, slot_);
  admitted_ = false;
}

std::optional<ProxyHeader> Gate::read_header(Accepted& connection) {
  const Nanoseconds now = monotonic_now();
  seat_.receive(now, shm::pack_peer(connection.peer.get()));
  std::string error;
  const auto header = read_proxy_header(connection.fd.get(), now + kHeaderTime, error);
  if (!header) {
    refuse(connection, Rejection::kProxyHeader, "PROXY header: " + error);
    return std::nullopt;
  }
  if (header->source) connection.peer = *header->source;
  if (header->destination) connection.local = *header->destination;
  return header;
}

bool Gate::refuse(const Accepted& connection, Rejection reason, const std::string& why) {
  seat_.reject(reason);
  log_.tell(connection.peer, reason, why);
  return false;
}

}  // namespace preforkd
