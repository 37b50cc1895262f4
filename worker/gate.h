// Who is let in: what stands between the accept and the handler. In this order:
//
//   1. `access`, by the address that connected. Behind a proxy: that must be one of `trusted`.
//   2. The PROXY header, which replaces the addresses of the connection for all that follows, the handler and
//      the environment included. It must be whole within 5 s: a proxy sends it at once. Meanwhile
//      the worker is busy, so that the pool grows when many are waited for.
//      LOCAL says that there is no client: it is the proxy's own connection, as for a health check. It is let in as it is,
//      whatever `access` and `per_source` say, which are about clients, and counts as any other does.
//   3. `access` again, by the client's own address. Where the proxy cannot say it (UNKNOWN, UNSPEC), by the proxy's.
//   4. `per_source` (shm/admissions.h).
//
// Who is refused is closed, and counted by reason (shm/rejection.h); the log has one of each reason in 10 s from
// each worker. Clients of Unix sockets have no address: the permissions of the socket's file are what decides.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/range_set.h"
#include "conf/network_lists.h"
#include "conf/settings.h"
#include "shm/mapping.h"
#include "shm/rejection.h"
#include "worker/acceptor.h"
#include "worker/proxy_protocol.h"
#include "worker/seat.h"

namespace preforkd {

// Made of a pool's settings, once, in the supervisor. The lists are borrowed: what the settings say of networks does not
// count (who has a NetworkLists has settings without).
struct GateRules {
  RangeSet access, trusted;
  bool proxy_protocol = false;
  uint32_t per_source = 0;  // 0: no limit
  bool let_all_in = false;

  GateRules(const PoolSettings& settings, const NetworkLists& lists);

  // Step 1. `connected` is the address that the kernel knows.
  std::optional<Rejection> rejects(const SocketAddress& connected) const;
};

// "refused 10.0.0.1:4242: why": one of each reason in 10 s.
class RejectionLog {
 public:
  void tell(const SocketAddress& peer, Rejection reason, const std::string& why);

 private:
  Nanoseconds told_at_[kRejections] = {};
};

// One in each worker.
class Gate {
 public:
  Gate(const GateRules& rules, const shm::Mapping& mapping, uint32_t slot, Seat& seat)
      : rules_(rules), mapping_(mapping), slot_(slot), seat_(seat) {}

  // False: it is refused. The addresses in it become the client's own.
  bool lets_in(Accepted& connection);
  void left();  // the one that was let in last

 private:
  bool refuse(const Accepted& connection, Rejection reason, const std::string& why);
  std::optional<ProxyHeader> read_header(Accepted& connection);

  const GateRules& rules_;
  const shm::Mapping& mapping_;
  const uint32_t slot_;
  Seat& seat_;
  bool admitted_ = false;
  RejectionLog log_;
};

}  // namespace preforkd
