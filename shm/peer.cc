#include "shm/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

namespace preforkd::shm {

void store_peer(Slot& slot, const PeerWords& peer) {
  for (size_t i = 0; i < peer.size(); ++i) slot.peer[i].store(peer[i], std::memory_order_relaxed);
}

PeerWords load_peer(const Slot& slot) {
  PeerWords peer;
  for (size_t i = 0; i < peer.size(); ++i) peer[i] = slot.peer[i].load();
  return peer;
}

PeerWords pack_peer(const sockaddr* address) {
  PeerWords words{};
  if (address->sa_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address);
    words[0] = AF_INET | uint64_t{ntohs(in->sin_port)} << 16;
    std::memcpy(&words[1], &in->sin_addr, sizeof in->sin_addr);
  } else if (address->sa_family == AF_INET6) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(address);
    words[0] = AF_INET6 | uint64_t{ntohs(in->sin6_port)} << 16;
    std::memcpy(&words[1], &in->sin6_addr, sizeof in->sin6_addr);
  }
  return words;
}

PeerWords pack_unix_peer(uint32_t pid, uint32_t uid) {
  return {AF_UNIX, pid | uint64_t{uid} << 32, 0};
}

std::string peer_text(const PeerWords& words) {
  char text[INET6_ADDRSTRLEN] = "";
  std::string port = std::to_string(words[0] >> 16 & 0xffff);
  switch (words[0] & 0xffff) {
    case AF_INET:
      inet_ntop(AF_INET, &words[1], text, sizeof text);
      return std::string(text) + ":" + port;
    case AF_INET6:
      inet_ntop(AF_INET6, &words[1], text, sizeof text);
      return "[" + std::string(text) + "]:" + port;
    case AF_UNIX:
      return "unix:pid=" + std::to_string(words[1] & 0xffffffff) +
             ",uid=" + std::to_string(words[1] >> 32);
    default:
      return "";
  }
}

}  // namespace preforkd::shm
