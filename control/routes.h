// What is answered to whom: the one table of paths, and what happens behind each. Knows HTTP's methods
// and status codes and nothing of its bytes; endpoint.h does those.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/messages.h"
#include "control/pools.h"
#include "control/rights.h"

namespace preforkd {

struct HttpCall {
  std::string_view method, path, accept, body;
  Peer peer;
};

struct HttpReply {
  unsigned status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::string allow;   // of a 405
  std::string policy;  // Content-Security-Policy, of the page
};

HttpReply error_reply(unsigned status, std::string_view text);

class Routes {
 public:
  // `read_only`: offers reading and nothing else (the endpoint on TCP).
  Routes(Pools& pools, bool read_only) : pools_(pools), read_only_(read_only) {}

  // The reply, or what the daemon has to be asked before there is one.
  using Outcome = std::variant<HttpReply, Request>;
  Outcome respond(const HttpCall& call);

  // The reply to the client whose wish the daemon has answered.
  HttpReply conclude(const Request& asked, const Answer& answer);

 private:
  Pools& pools_;
  bool read_only_;
};

}  // namespace preforkd
