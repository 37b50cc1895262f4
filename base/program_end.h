// What a program's end says about its connection. Asked by the supervisor, whose children programs are, and by the daemon
// for those whose supervisor has died. Pure.
#pragma once

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace preforkd {

// "killed by signal 11 (Segmentation fault)", "exited with status 1".
inline std::string program_end_text(int wait_status) {
  if (!WIFSIGNALED(wait_status))
    return "exited with status " + std::to_string(WEXITSTATUS(wait_status));
  const int number = WTERMSIG(wait_status);
  return "killed by signal " + std::to_string(number) + " (" + strsignal(number) + ")";
}

// `success`: of the pool's settings.
inline bool is_success(int wait_status, const std::vector<uint32_t>& success) {
  if (!WIFEXITED(wait_status)) return false;
  const auto status = static_cast<uint32_t>(WEXITSTATUS(wait_status));
  return std::find(success.begin(), success.end(), status) != success.end();
}

// Well or not, it has ended of itself, or of its client: SIGPIPE is how a program mostly learns that nobody reads any more.
inline bool ended_by_itself(int wait_status) {
  return WIFEXITED(wait_status) || (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGPIPE);
}

}  // namespace preforkd
