// In place of control or the log process, as if that had been taken over: leaves two processes behind, "left_in" in its
// session and "left_out" in one of its own, which have its descriptors for ever (not where a file lies beside it with
// ".good" after its name); then becomes what lies beside it with ".real" after its name.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace {

void leave(bool in_session) {
  const pid_t child = fork();
  if (child > 0) waitpid(child, nullptr, 0);
  if (child != 0) return;
  if (!in_session) setsid();
  if (fork() != 0) _exit(0);
  prctl(PR_SET_NAME, in_session ? "left_in" : "left_out");
  for (;;) pause();
}

}  // namespace

int main(int, char** argv) {
  char self[4096];
  const ssize_t size = readlink("/proc/self/exe", self, sizeof self);
  if (size <= 0) return 1;
  const std::string name(self, static_cast<size_t>(size));
  if (access((name + ".good").c_str(), F_OK) != 0) {
    leave(true);
    leave(false);
  }
  execv((name + ".real").c_str(), argv);
  return 1;
}
