// What loading in `preload` saves: the example spell, whose dictionary all workers share, and the same with each
// worker loading its own, in `start`.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "bench/report.h"
#include "bench/servers.h"

namespace preforkd::bench {

inline constexpr int kSpellWorkers = 50, kSpellRounds = 3;

// A connection to each worker: all are held until the last one is answered.
inline void have_each_suggest(const std::string& port) {
  const std::string question = "recieve\n";
  std::vector<UniqueFd> clients;
  for (int i = 0; i < kSpellWorkers; i++) {
    clients.push_back(tcp_socket());
    int fd = clients.back().get();
    const timeval patience{10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect_to_loopback(fd, static_cast<uint16_t>(std::stoi(port))) != 0)
      throw SysError("connect to spell", errno);
    if (send(fd, question.data(), question.size(), MSG_NOSIGNAL) < 0)
      throw SysError("ask spell", errno);
    char answer[256];
    ssize_t got = recv(fd, answer, sizeof answer, 0);
    if (got <= 0 || !std::string(answer, static_cast<size_t>(got)).starts_with("no: receive"))
      throw std::runtime_error("spell has answered something else");
  }
}

struct PrivateMemory {
  double fresh = 0, used = 0;  // MB; of all workers together
};

inline double private_megabytes(Preforkd& preforkd) {
  uint64_t sum = 0;
  std::vector<pid_t> workers = preforkd.workers();
  if (workers.size() != kSpellWorkers)
    throw std::runtime_error(text("list workers: %zu, expected %d", workers.size(), kSpellWorkers));
  for (pid_t pid : workers) sum += private_dirty_kb(pid);
  return static_cast<double>(sum) / 1024;
}

inline PrivateMemory spell_memory(const std::string& build, const char* load) {
  Preforkd preforkd(build, {.min = kSpellWorkers,
                            .max = kSpellWorkers,
                            .handler = build + "/examples/spell/spell.so",
                            .settings = text("load = \"%s\";", load)});
  PrivateMemory memory;
  memory.fresh = private_megabytes(preforkd);
  have_each_suggest(preforkd.port());
  memory.used = private_megabytes(preforkd);
  return memory;
}

inline void spell(const std::string& build, Report& report) {
  sync();  // see `memory`
  Samples shared_fresh, shared_used, own_fresh, own_used, ratios;
  for (int round = 0; round < kSpellRounds; round++) {
    PrivateMemory shared = spell_memory(build, "preload"), own = spell_memory(build, "start");
    shared_fresh.push_back(shared.fresh);
    shared_used.push_back(shared.used);
    own_fresh.push_back(own.fresh);
    own_used.push_back(own.used);
    ratios.push_back(shared.used / own.used);
    progress(text("spell: loaded in preload %.1f MB, used %.1f MB; in start %.1f MB, used %.1f MB",
                  shared.fresh, shared.used, own.fresh, own.used));
  }
  report.add(
      {text("private memory of %d spell workers, dictionary loaded in preload, MB", kSpellWorkers),
       text("%.1f", median(shared_used)), text("loaded in start: %.1f", median(own_used)),
       text("%.3f", median(ratios)), "≤ 0.10", reached_if(median(ratios) <= 0.1)});
  report.note(
      text("spell: Private_Dirty of %d workers together, median of %d starts, after each has "
           "made suggestions for one word: preload ",
           kSpellWorkers, kSpellRounds) +
      summary(shared_used, 1) + ", start " + summary(own_used, 1) +
      "; before any connection: preload " + summary(shared_fresh, 1) + ", start " +
      summary(own_fresh, 1) + ".");
}

}  // namespace preforkd::bench
