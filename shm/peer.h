// A connection's peer in three 64-bit words, so that a worker stores it without a lock and a reader
// never sees half an address as a string: word 0 is the family in its low 16 bits and the port (host
// order) in the next 16; words 1 and 2 are the address's bytes. For Unix sockets word 1 is the peer's
// pid in its low half and its uid in the high one.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <string>

#include "shm/layout.h"

namespace preforkd::shm {

using PeerWords = std::array<uint64_t, 3>;

void store_peer(Slot& slot, const PeerWords& peer);  // called by its worker
PeerWords load_peer(const Slot& slot);

PeerWords pack_peer(const sockaddr* address);  // AF_INET, AF_INET6; anything else: all zero
PeerWords pack_unix_peer(uint32_t pid, uint32_t uid);
std::string peer_text(
    const PeerWords& words);  // "127.0.0.1:5555", "[::1]:5555", "unix:pid=1,uid=0", ""

}  // namespace preforkd::shm
