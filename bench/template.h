// What `preload` of a program saves: the same program, started for each worker, and forked where it waits for its client.
#pragma once

#include <sys/socket.h>

#include <filesystem>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "bench/report.h"
#include "bench/servers.h"

namespace preforkd::bench {

inline constexpr int kNextWorkers = 20, kNextRounds = 5;

// Connects, and waits for the first byte of an answer.
inline void ask_once(int fd, const std::string& port) {
  const timeval patience{10, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  char answer = 0;
  if (connect_to_loopback(fd, static_cast<uint16_t>(std::stoi(port))) != 0 ||
      send(fd, "?", 1, MSG_NOSIGNAL) != 1 || recv(fd, &answer, 1, 0) != 1)
    throw SysError("ask a worker", errno);
}

// From the connect to the first answer, in ms, of each of so many clients that stay: none finds an idle worker.
inline Samples first_answers(const std::string& port) {
  Samples times;
  std::list<UniqueFd> clients;
  for (int i = 0; i <= kNextWorkers; i++) {
    const int fd = clients.emplace_back(tcp_socket()).get();
    const Nanoseconds began = monotonic_now();
    ask_once(fd, port);
    // (The first one is served by who is there.)
    if (i > 0) times.push_back(to_seconds(monotonic_now() - began) * 1000);
  }
  return times;
}

inline Samples next_workers(const std::string& build, const std::string& serve, bool preload) {
  Preforkd preforkd(build, {.min = 1,
                            .max = 64,
                            .min_spare = 0,
                            .max_spare = 64,
                            .serve = serve,
                            .more = preload ? "preload = true;" : ""});
  return first_answers(preforkd.port());
}

inline void next_worker(const std::string& build, Report& report) {
  const std::string folder = std::filesystem::canonical(build + "/../../bench");
  const std::pair<const char*, std::string> kinds[] = {
      {"Python", "\"python3\", \"" + folder + "/echo.py\""},
      {"Perl", "\"perl\", \"" + folder + "/echo.pl\""}};
  for (const auto& [name, serve] : kinds) {
    Samples forked, started;
    for (int round = 0; round < kNextRounds; round++) {
      forked.push_back(median(next_workers(build, serve, true)));
      started.push_back(median(next_workers(build, serve, false)));
      progress(text("next worker, %s: forked %.2f ms, started %.2f ms", name, forked.back(),
                    started.back()));
    }
    const double ratio = median(ratios(forked, started));
    report.add({text("%s: first answer of a worker that was not there, preload, ms", name),
                summary(forked, 2), "started: " + summary(started, 2), text("%.3f", ratio),
                "≤ 0.10", reached_if(ratio <= 0.1)});
  }
  report.note(text(
      "next worker: %d clients that stay, one after the other; the median of each of %d rounds.",
      kNextWorkers, kNextRounds));
}

}  // namespace preforkd::bench
