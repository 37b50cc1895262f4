// The page at "/": one HTML document (dashboard.html, put into the program as it is) that loads nothing from
// anywhere and reads /v1/status. Its style and script are let in by a nonce, new each time, so that
// nothing that a pool's figures may contain can ever run in it.
#pragma once

#include <string>

namespace preforkd {

struct Dashboard {
  std::string html;
  std::string policy;  // its Content-Security-Policy
};

Dashboard make_dashboard();  // throws SysError

}  // namespace preforkd
