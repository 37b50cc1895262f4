#include "daemon/signal_scope.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "base/error.h"
#include "base/fd.h"

namespace preforkd {
namespace {

// As Linux 6.12 has them in <linux/landlock.h>.
struct RulesetAttributes {
  uint64_t handled_access_fs = 0, handled_access_net = 0, scoped = 0;
};
constexpr uint64_t kScopeSignal = 1 << 1;
constexpr unsigned kAskVersion = 1 << 0;
constexpr long kFirstWithScope = 6;

// prlimit(2) asks neither the scope nor whether a process is dumpable: a limit of 0 s of processor time ends it. Who
// names a pid and new limits is refused; setrlimit(2) names none. By each of the machine's two tables of system calls.
int keep_limits_within() {
#if defined(__x86_64__)
  constexpr uint32_t kNative = AUDIT_ARCH_X86_64, kOther = 340, kOwnBits = ~0x40000000u;  // x32's
#elif defined(__aarch64__)
  constexpr uint32_t kNative = AUDIT_ARCH_AARCH64, kOther = 369, kOwnBits = ~0u;
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  constexpr auto field = [](size_t offset) {
    return sock_filter(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
  };
  constexpr size_t kPid = offsetof(seccomp_data, args[0]), kNew = offsetof(seccomp_data, args[2]);
  sock_filter refuse_others[] = {
      field(offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kNative, 0, 4),
      field(offsetof(seccomp_data, nr)),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, kOwnBits),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 3, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      field(offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kOther, 0, 6),
      field(kPid),  // little-endian: the half that counts comes first
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, 0),
      field(kNew),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
      field(kNew + 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
  };
  const sock_fprog program{std::size(refuse_others), refuse_others};
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
#else
  return 0;
#endif
}

}  // namespace

int keep_signals_within() {
  // What the kernel does not have, or does not grant, is said at the start; for want of room nobody goes without.
  const RulesetAttributes attributes{.scoped = kScopeSignal};
  UniqueFd ruleset(
      static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
  if (!ruleset.is_open() && lacks_room(errno)) return errno;
  if (ruleset.is_open() && syscall(SYS_landlock_restrict_self, ruleset.get(), 0) < 0 &&
      lacks_room(errno))
    return errno;
  // Root's pools have users of their own, whose limits are their own.
  if (geteuid() != 0 && keep_limits_within() < 0 && lacks_room(errno)) return errno;
  return 0;
}

const char* why_signals_reach_out() {
  if (syscall(SYS_landlock_create_ruleset, nullptr, 0, kAskVersion) < kFirstWithScope)
    return "Linux has no scope for signals here (6.12 has, with Landlock)";
  // Asked without a ruleset: EBADF would be the next complaint.
  if (syscall(SYS_landlock_restrict_self, -1, 0) < 0 && errno == EPERM)
    return "it takes CAP_SYS_ADMIN or no_new_privs (NoNewPrivileges=yes)";
  return "";
}

}  // namespace preforkd
