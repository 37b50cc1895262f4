// How fast: connections that arrive all at once, and short connections one after the other.
#pragma once

#include <string>

#include "bench/report.h"
#include "bench/servers.h"

namespace preforkd::bench {

// --- burst: 200 connections at once, from a pool of 5

inline constexpr int kBurst = 200, kBurstMin = 5, kBurstRounds = 9, kPeerRounds = 5;

inline Samples burst_on_apache(const std::string& build) {
  Samples times;
  for (int round = 0; round < kPeerRounds; round++) {
    Apache apache;  // a fresh one each time: it keeps its processes for minutes
    times.push_back(measure({build + "/bench/burst", apache.port(), std::to_string(kBurst), "http"})
                        .at("all_ms"));
    progress(text("burst: Apache prefork %.0f ms", times.back()));
  }
  return times;
}

inline void burst(const std::string& build, Report& report) {
  Samples pool_times, fork_times, shrink_times;
  Preforkd preforkd(build, {.min = kBurstMin, .max = 256, .shrink_after = 2});
  auto on_pool = [&] {
    pool_times.push_back(
        measure({build + "/bench/burst", preforkd.port(), std::to_string(kBurst)}).at("all_ms"));
    shrink_times.push_back(preforkd.wait_at_min(60));
  };
  auto on_forks = [&] {
    fork_times.push_back(
        measure({build + "/bench/bare", "forks", std::to_string(kBurst - kBurstMin)}).at("all_ms"));
  };
  for (int round = 0; round < kBurstRounds; round++) {
    // Each is first as often as the other.
    if (round % 2) on_forks();
    on_pool();
    if (round % 2 == 0) on_forks();
    progress(text("burst: preforkd %.1f ms, bare forks %.1f ms; back at min after %.1f s",
                  pool_times.back(), fork_times.back(), shrink_times.back()));
  }
  Samples ratio = ratios(pool_times, fork_times);
  report.add(
      {text("%d connections arriving at once and staying, pool at min %d: until all have their "
            "first answer, ms",
            kBurst, kBurstMin),
       summary(pool_times, 1), text("%d bare forks: ", kBurst - kBurstMin) + summary(fork_times, 1),
       summary(ratio, 2), "≤ 2", reached_if(median(ratio) <= 2)});
  report.add({"back at the minimum after that burst, shrink_after = 2, s", summary(shrink_times, 1),
              "", "", "≤ 15", reached_if(highest(shrink_times) <= 15)});
  report.note("burst: preforkd " + listing(pool_times, 1) + " ms; bare forks " +
              listing(fork_times, 1) + " ms.");
  if (!Apache::is_installed()) return;
  Samples apache_times = burst_on_apache(build);
  report.add({"the same burst on Apache prefork with its default pool, ms",
              text("%.1f", median(pool_times)), summary(apache_times, 0),
              text("%.4f", median(pool_times) / median(apache_times)), "",
              Verdict::kForComparison});
}

// --- throughput: short connections, pool against no pool

inline constexpr int kStaticWorkers = 64, kPairs = 15;

inline void throughput(const std::string& build, Report& report) {
  Samples pool_rates, bare_rates;
  double failed = 0, completed = 0;
  Preforkd preforkd(build, {.min = kStaticWorkers, .max = kStaticWorkers});
  Bare bare(build, kStaticWorkers);
  auto load = [&](const std::string& port, const char* seconds, Samples* rates) {
    Figures figures = measure({build + "/bench/echo_load", port, "16", seconds});
    if (!rates) return;  // a warm-up
    rates->push_back(figures.at("per_second"));
    completed += figures.at("completed");
    failed += figures.at("refused") + figures.at("reset") + figures.at("wrong");
  };
  load(preforkd.port(), "1", nullptr);
  load(bare.port(), "1", nullptr);
  for (int pair = 0; pair < kPairs; pair++) {
    if (pair % 2) load(bare.port(), "3", &bare_rates);
    load(preforkd.port(), "3", &pool_rates);
    if (pair % 2 == 0) load(bare.port(), "3", &bare_rates);
    progress(
        text("throughput: preforkd %.0f/s, bare %.0f/s", pool_rates.back(), bare_rates.back()));
  }
  Samples ratio = ratios(pool_rates, bare_rates);
  Interval interval = confidence_of_median(ratio);
  report.add({text("short echo connections/s, 16 clients, %d workers", kStaticWorkers),
              summary(pool_rates, 0), "bare: " + summary(bare_rates, 0),
              text("%.3f [%.3f, %.3f]", median(ratio), interval.low, interval.high), "≥ 0.95",
              reached_if(interval.high >= 0.95 && failed == 0)});
  report.note(
      text(
          "throughput: %.0f connections, %.0f failed; the median of %d paired ratios and its 95 %% "
          "interval (percentile bootstrap, 10,000 resamples); the ratios: ",
          completed, failed, kPairs) +
      listing(ratio, 3) + ".");
}

// --- program: one per connection, against tcpserver

inline constexpr int kProgramPairs = 9;

inline void program(const std::string& build, Report& report) {
  Samples pool_rates, peer_rates;
  double failed = 0, completed = 0;
  Preforkd preforkd(build, {.min = 8, .max = 256, .program = "/bin/cat"});
  Tcpserver tcpserver("/bin/cat");
  auto load = [&](const std::string& port, const char* seconds, Samples* rates) {
    Figures figures = measure({build + "/bench/echo_load", port, "8", seconds});
    if (!rates) return;  // a warm-up
    rates->push_back(figures.at("per_second"));
    completed += figures.at("completed");
    failed += figures.at("refused") + figures.at("reset") + figures.at("wrong");
  };
  load(preforkd.port(), "1", nullptr);
  load(tcpserver.port(), "1", nullptr);
  for (int pair = 0; pair < kProgramPairs; pair++) {
    if (pair % 2) load(tcpserver.port(), "3", &peer_rates);
    load(preforkd.port(), "3", &pool_rates);
    if (pair % 2 == 0) load(tcpserver.port(), "3", &peer_rates);
    progress(
        text("program: preforkd %.0f/s, tcpserver %.0f/s", pool_rates.back(), peer_rates.back()));
  }
  Samples ratio = ratios(pool_rates, peer_rates);
  Interval interval = confidence_of_median(ratio);
  report.add({"/bin/cat for each connection, connections/s, 8 clients", summary(pool_rates, 0),
              "tcpserver: " + summary(peer_rates, 0),
              text("%.3f [%.3f, %.3f]", median(ratio), interval.low, interval.high), "≥ 1.0",
              reached_if(interval.high >= 1.0 && failed == 0)});
  report.note(text("program: %.0f connections, %.0f failed; the ratios: ", completed, failed) +
              listing(ratio, 3) + ".");
}

}  // namespace preforkd::bench
