// Which file a bound Unix socket has, by the kernel's own word: its path may lead to another by now.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace preforkd {

// The low 32 bits of the inode's number, which is all that it says. Nothing: it has no file, or the kernel does not know how
// to tell (unix_diag).
std::optional<uint32_t> inode_of_file(int unix_socket);

// Whether a socket of some process here is bound to that file and neither listens nor is connected: somebody is about to.
// (False where the kernel does not know how to tell, and of a process in another network namespace.)
bool is_about_to_listen(dev_t device, ino_t inode);

}  // namespace preforkd
