#include "base/memory_file.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/error.h"

namespace preforkd {
namespace {

constexpr size_t kLongestName = 200;  // the kernel has room for 249
constexpr unsigned kNoExecSeal = 8;   // MFD_NOEXEC_SEAL, of Linux 6.3
constexpr unsigned kExec = 16;        // MFD_EXEC, likewise

UniqueFd make(const std::string& name, unsigned newer_flag) {
  const char* shown = name.c_str() + (name.size() > kLongestName ? name.size() - kLongestName : 0);
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd fd(memfd_create(shown, kFlags | newer_flag));
  if (!fd.is_open() && errno == EINVAL) fd.reset(memfd_create(shown, kFlags));
  if (!fd.is_open()) throw SysError("memfd_create", errno);
  return fd;
}

}  // namespace

UniqueFd make_memory_file(const std::string& name) { return make(name, kNoExecSeal); }
UniqueFd make_executable_memory_file(const std::string& name) { return make(name, kExec); }

}  // namespace preforkd
