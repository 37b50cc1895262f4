// A file in memory that has no name in any file system (memfd_create(2)): for what one process hands to another by its
// descriptor.
#pragma once

#include <fcntl.h>

#include <string>

#include "base/fd.h"

namespace preforkd {

// Empty, closed on exec, may be sealed; not to be executed, where the kernel can say so (a library is mapped all the
// same). `name` is what /proc shows of it; of a longer one its last 200 bytes. Throws SysError.
UniqueFd make_memory_file(const std::string& name);

// With these (F_ADD_SEALS) nobody can change it any more.
inline constexpr int kAllSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// One that may be executed. Where the kernel does not allow that at all (vm.memfd_noexec): EACCES.
UniqueFd make_executable_memory_file(const std::string& name);

}  // namespace preforkd
