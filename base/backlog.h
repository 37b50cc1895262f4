// How many connections wait in the accept queues of listen sockets, and how many may: what `ss -l`
// shows as Recv-Q and Send-Q. Two ways to ask:
//  - whoever holds the socket: queued_on(). TCP_INFO of a listening socket gives sk_ack_backlog as
//    tcpi_unacked and sk_max_ack_backlog as tcpi_sacked (tcp(7) does not say; net/ipv4/tcp.c,
//    tcp_get_info, does). A Unix socket is looked up by its inode.
//  - whoever knows only the inode (control, which holds no listen socket): queued_by_inode(), through
//    sock_diag(7), which answers unprivileged processes in the same network namespace.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace preforkd {

struct Backlog {
  uint32_t queued = 0;  // connections that the kernel has completed and nobody has accepted
  uint32_t limit = 0;   // in force: min(backlog asked for, net.core.somaxconn)
};

std::optional<Backlog> queued_on(int listen_fd);
// On all of them together; with `which`, on the i-th where bit i is set. Beyond 64 only with all bits.
uint32_t queued_on(const std::vector<int>& listen_sockets, uint64_t which = ~uint64_t{0});

// The same; nothing: it cannot be known just now, for want of memory or a descriptor.
std::optional<uint32_t> queued_if_known(const std::vector<int>& listen_sockets, uint64_t which);
// Whether more connections wait than should: on all of the sockets more than `most`, or on one of them as many as the
// kernel lets wait there (one more than its limit, net.core.somaxconn or the backlog): who comes after that hangs. How
// many may, of the two; nothing: they do not.
std::optional<uint32_t> exceeded_on(const std::vector<int>& listen_sockets, uint32_t most);

// Whether the i-th of some listen sockets is among those that `which` means, as above.
inline bool is_among(uint64_t which, size_t i) { return !~which || (i < 64 && (which >> i & 1)); }

// Whether somebody is shaking hands with one of them: to the kernel the last step is missing, his side may be through.
// (With who shares their port on another address.) False where sock_diag does not answer, and for Unix sockets;
// true where it cannot be asked just now.
bool shakes_hands(const std::vector<int>& listen_sockets, uint64_t which);

// For each inode that is a listening TCP or Unix socket, its backlog. Empty where sock_diag does not
// answer (not compiled in, or AF_NETLINK denied).
std::map<ino_t, Backlog> queued_by_inode(const std::vector<ino_t>& inodes);

}  // namespace preforkd
