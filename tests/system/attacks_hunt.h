// Its supervisor is killed, again and again, and the next one is awaited: pids follow each other, so that its
// is known before it is there. Only in a PID namespace of the server's own: it takes the pids of strangers, too.
//
//   hunt seize MS      tries to trace the next one, to open its memory and to take its channel, from its first
//                      instruction on, every other time stopping it step by step; answers "nothing", or what worked
//   hunt stop MS       stops the next one as soon as it is of this user; answers how many were stopped before
//                      their exec
#pragma once

#include <algorithm>
#include <fstream>

#include "base/clock.h"
#include "tests/system/attacks.h"

namespace preforkd::system_test::attack {

struct Kin {
  pid_t parent = 0;
  std::string comm;
};

inline Kin kin_of(pid_t pid) {
  std::ifstream file(proc(pid, "stat"));
  std::string line;
  std::getline(file, line);
  const size_t begin = line.find('('), end = line.rfind(')');
  if (end == line.npos || line.size() < end + 5) return {};
  return {std::atoi(line.c_str() + end + 4), line.substr(begin + 1, end - begin - 1)};
}

inline bool is_ours(pid_t pid) {
  std::ifstream file(proc(pid, "status"));
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("Uid:"))
      return std::strtoul(line.c_str() + 4, nullptr, 10) == static_cast<unsigned long>(getuid());
  return false;
}

inline pid_t newest_pid() {
  std::ifstream file("/proc/loadavg");
  std::string load;
  pid_t newest = 0;
  file >> load >> load >> load >> load >> newest;
  return newest;
}

// A supervisor that has been there long enough to have a worker, or 0.
inline pid_t supervisor_under(pid_t daemon) {
  for (pid_t pid = newest_pid(); pid > 1; --pid) {
    const Kin worker = kin_of(pid);
    if (worker.comm != "preforkd-worker" || !is_ours(worker.parent)) continue;
    if (kin_of(worker.parent).parent == daemon) return worker.parent;
  }
  return 0;
}

inline std::string seize(pid_t next, pid_t daemon, bool step, Nanoseconds until) {
  static const std::vector<Method> kAtOnce = {
      {"ptrace", [](pid_t p) { return ptrace(PTRACE_SEIZE, p, 0, 0) == 0; }},
      {"mem", [](pid_t p) { return can_open(proc(p, "mem"), O_RDWR); }},
      {"pidfd_getfd", takes_a_descriptor},
  };
  std::string worked;
  while (worked.empty() && monotonic_now() < until) {
    if (step && kill(next, SIGSTOP) != 0) continue;
    for (const Method& method : kAtOnce) {
      if (!worked.empty() || !method.works(next)) continue;
      const Kin kin = kin_of(next);
      if (kin.parent == daemon) worked = method.name + (" of " + kin.comm);
    }
    if (step) kill(next, SIGCONT);
  }
  return worked;
}

// One that was stopped after its exec goes on: there is nothing to see.
inline bool stop_early(pid_t next, pid_t daemon, Nanoseconds until) {
  while (kill(next, SIGSTOP) != 0)
    if (monotonic_now() > until) return false;
  const Kin kin = kin_of(next);
  const bool early = kin.parent == daemon && kin.comm == "preforkd";  // the daemon's own name
  if (!early) kill(next, SIGCONT);
  return early;
}

inline std::string hunt(const std::string& how, uint64_t milliseconds) {
  const pid_t daemon = kin_of(getppid()).parent;
  const Nanoseconds end = monotonic_now() + milliseconds * kMillisecond;
  int rounds = 0, stopped_early = 0;
  std::string worked;
  while (monotonic_now() < end && worked.empty()) {
    const pid_t supervisor = supervisor_under(daemon);
    if (supervisor == 0) {
      sched_yield();
      continue;
    }
    const Nanoseconds until = std::min(end, monotonic_now() + 500 * kMillisecond);
    if (how == "stop") {
      const pid_t next = newest_pid() + 1;
      kill(supervisor, SIGKILL);
      stopped_early += stop_early(next, daemon, until);
    } else {
      const bool step = rounds % 2 == 1;
      worked = in_child([&] {
        const pid_t next = newest_pid() + 1;
        kill(supervisor, SIGKILL);
        return seize(next, daemon, step, until);
      });
    }
    ++rounds;
  }
  const std::string in_rounds = " in " + std::to_string(rounds) + " rounds";
  if (how == "stop") return std::to_string(stopped_early) + in_rounds;
  return (worked.empty() ? "nothing" : worked) + in_rounds;
}

}  // namespace preforkd::system_test::attack
