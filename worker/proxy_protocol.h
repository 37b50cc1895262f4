// The PROXY protocol, versions 1 and 2, as HAProxy's proxy-protocol.txt (2020/03/05) defines it: what a proxy
// writes first of all into a connection to say whose it is. Pure: bytes in, addresses out.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/address.h"

namespace preforkd {

struct ProxyHeader {
  // Nothing if the proxy speaks for itself, or cannot say whose it is (UNKNOWN, UNSPEC, UDP, a Unix socket): the
  // connection's own addresses are to be used then.
  std::optional<SocketAddress> source, destination;
  // The proxy speaks for itself (LOCAL of version 2: its health checks): nobody's connection but its own, and to be accepted.
  bool is_local = false;
};

// A header of version 2 begins with these 12 bytes, one of version 1 with "PROXY ".
inline constexpr std::string_view kProxySignature{"\r\n\r\n\0\r\nQUIT\n", 12};

inline constexpr size_t kProxyLeast =
    15;  // "PROXY UNKNOWN\r\n": so many bytes belong to any header
inline constexpr size_t kProxyLongest1 = 107;  // of version 1, its end included
inline constexpr size_t kProxyFixed2 = 16;     // of version 2: signature, version, family, length
// Of version 2, all of it: addresses take at most 216 bytes, the rest are extensions (TLVs), which are skipped. The
// format allows 65,551; a certificate or two fit into this.
inline constexpr size_t kProxyLongest2 = 16 * 1024;

// Version 1: the line, with its CR LF. On error nothing, and what was wrong.
std::optional<ProxyHeader> parse_proxy_line(std::string_view line, std::string& error);

// Version 2: from its first kProxyFixed2 bytes, how many there are in all.
std::optional<size_t> proxy_block_size(std::string_view fixed, std::string& error);
// The whole of it, of that size.
std::optional<ProxyHeader> parse_proxy_block(std::string_view block, std::string& error);

}  // namespace preforkd
