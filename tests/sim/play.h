// Ten minutes of a pool's life, drawn from a seed: its settings, its clients, what is ordered of it, what befalls it; and what
// must hold all the while.
#pragma once

#include <cstdint>
#include <string>

namespace preforkd::sim {

// Of one or many runs.
struct Tally {
  double minutes = 0;
  uint64_t connections = 0, served = 0,
           lost = 0;  // lost: with a worker that was killed, or as they wanted it
  uint64_t forks = 0, deaths = 0, kills = 0;  // deaths of workers; kills: of them by the scenario
  uint64_t supervisors = 0, supervisors_killed = 0;
  uint64_t reloads = 0, refused = 0, orders = 0;  // orders: limits, drains

  Tally& operator+=(const Tally& more);
};

struct Outcome {
  std::string violation;  // "": none
  Tally tally;
};

// Plays it. In a process of its own: what it leaves behind is freed by nobody.
Outcome play(uint64_t seed, double minutes, bool is_traced);

}  // namespace preforkd::sim
