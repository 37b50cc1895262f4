// What is answered to whom: the one table of paths, and what happens behind each. Knows HTTP's methods
// and status codes and nothing of its bytes; endpoint.h does those.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "control/pools.h"
#include "control/rights.h"
#include "ipc/control_messages.h"

namespace preforkd {

struct HttpCall {
  std::string_view method, path, accept, body;
  Peer peer;
  std::optional<std::string_view> host = {};  // nothing: none was sent, or several
};

struct HttpReply {
  unsigned status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::string allow;   // of a 405
  std::string policy;  // Content-Security-Policy, of the page
  bool again = false;  // nothing was done: it can be asked again soon
};

HttpReply error_reply(unsigned status, std::string_view text);

class Routes {
 public:
  explicit Routes(Pools& pools) : pools_(pools) {}
  // On TCP: offers reading and nothing else, and only to who asks for an address, or for one of these names
  // (control.hosts).
  Routes(Pools& pools, std::vector<std::string> hosts)
      : pools_(pools), read_only_(true), hosts_(std::move(hosts)) {}

  // The reply, or what the daemon has to be asked before there is one.
  using Outcome = std::variant<HttpReply, Request>;
  Outcome respond(const HttpCall& call);

  // The reply to the client whose wish the daemon has answered.
  HttpReply conclude(const Request& asked, const Answer& answer);

  // To be called after each piece of news: what was kept to be shown again is not so any more.
  void follow_news() { kept_.clear(); }

 private:
  struct Kept {
    HttpReply reply;
    Nanoseconds until;
  };
  std::optional<HttpReply> refuse_host(const HttpCall& call) const;
  Outcome look(const HttpCall& call, const std::function<Outcome()>& make);

  Pools& pools_;
  const bool read_only_ = false;
  const std::vector<std::string> hosts_;
  std::map<std::string, Kept> kept_;  // by path
};

}  // namespace preforkd
