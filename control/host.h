// Whose name a request over TCP was sent to. A web page can make its own name stand for our address ("DNS
// rebinding"); its scripts then read what is answered as if it came from that page. The one thing that it
// cannot do is to have the browser say another name in Host: so what is reached by a name that is not known
// to be ours is refused. Nobody can make an address, or localhost, stand for something else. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace preforkd {

enum class HostVerdict {
  kOurs,      // an IP address, localhost, something.localhost, or one of `names`; whatever the port
  kUnknown,   // any other name
  kNonsense,  // not "host" or "host:port"
};

// `header`: what stands in Host. `names`: control.hosts; the case of letters and a dot at the end say nothing.
HostVerdict judge_host(std::string_view header, const std::vector<std::string>& names);

}  // namespace preforkd
