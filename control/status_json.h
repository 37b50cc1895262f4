// What GET answers in JSON. Pure: values in, text out. The names of members are fixed; add, never rename.
#pragma once

#include <string>
#include <vector>

#include "control/pool_view.h"

namespace preforkd {

// Now, by both clocks: decisions are kept by the one and shown by the other.
struct TwoClocks {
  Nanoseconds monotonic = 0;
  double epoch_seconds = 0;
};
TwoClocks read_clocks();

std::string status_json(const DaemonInfo& daemon, const std::vector<PoolView>& pools,
                        Nanoseconds now);
std::string pool_json(const PoolView& pool);
std::string workers_json(const Reading& reading);  // an array, by generation and slot
std::string decisions_json(std::vector<shm::DecisionView> decisions,
                           const TwoClocks& now);  // by time

std::string error_json(std::string_view text);
std::string done_json(std::string_view text);

}  // namespace preforkd
