// swapper USER FOLDER A B [C D ...]: exchanges, as USER and as fast as it can, the names A and B, C and D, ... in FOLDER
// until it is killed. It says "ready" first. One that is missing is waited for: as soon as it is made it is exchanged.
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>

int main(int argc, char** argv) {
  const passwd* user = argc > 4 ? getpwnam(argv[1]) : nullptr;
  if (!user || setgroups(0, nullptr) < 0 || setgid(user->pw_gid) < 0 || setuid(user->pw_uid) < 0 ||
      chdir(argv[2]) < 0)
    return 1;
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE
  std::puts("ready");
  std::fflush(stdout);
  for (;;)
    for (int i = 3; i + 1 < argc; i += 2)
      syscall(SYS_renameat2, AT_FDCWD, argv[i], AT_FDCWD, argv[i + 1], kExchange);
}
