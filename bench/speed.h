// How fast: connections that arrive all at once, and short connections one after the other.
#pragma once

#include <filesystem>
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

// --- short connections, one after the other, on preforkd and on a reference in turn

struct Contest {
  Samples ours, theirs;
  double completed = 0, failed = 0;

  Samples ratio() const { return ratios(ours, theirs); }
  std::string summary_of_ratio() const {
    const Interval interval = confidence_of_median(ratio());
    return text("%.3f [%.3f, %.3f]", median(ratio()), interval.low, interval.high);
  }
  Verdict reached(double least) const {
    return reached_if(confidence_of_median(ratio()).high >= least && failed == 0);
  }
};

struct ContestShape {
  const char* name;
  const char* reference;  // as the progress calls it
  int clients, pairs;
  bool resets = false;        // how each client ends
  const char* seconds = "3";  // of each piece
};

inline Contest contest(const std::string& build, const ContestShape& shape,
                       const std::string& our_port, const std::string& their_port) {
  Contest all;
  auto load = [&](const std::string& port, const char* seconds, Samples* rates) {
    std::vector<std::string> argv{build + "/bench/echo_load", port, std::to_string(shape.clients),
                                  seconds};
    if (shape.resets) argv.push_back("resets");
    Figures figures = measure(argv);
    if (!rates) return;  // a warm-up
    rates->push_back(figures.at("per_second"));
    all.completed += figures.at("completed");
    all.failed += figures.at("refused") + figures.at("reset") + figures.at("wrong");
  };
  load(our_port, "1", nullptr);
  load(their_port, "1", nullptr);
  for (int pair = 0; pair < shape.pairs; pair++) {
    // Each is first as often as the other.
    if (pair % 2) load(their_port, shape.seconds, &all.theirs);
    load(our_port, shape.seconds, &all.ours);
    if (pair % 2 == 0) load(their_port, shape.seconds, &all.theirs);
    progress(text("%s: preforkd %.0f/s, %s %.0f/s", shape.name, all.ours.back(), shape.reference,
                  all.theirs.back()));
  }
  return all;
}

// --- throughput: pool against no pool

inline constexpr int kStaticWorkers = 64, kPairs = 15;

inline void throughput(const std::string& build, Report& report) {
  Preforkd preforkd(build, {.min = kStaticWorkers, .max = kStaticWorkers});
  Bare bare(build, kStaticWorkers);
  const Contest all =
      contest(build, {"throughput", "bare", 16, kPairs}, preforkd.port(), bare.port());
  report.add({text("short echo connections/s, 16 clients, %d workers", kStaticWorkers),
              summary(all.ours, 0), "bare: " + summary(all.theirs, 0), all.summary_of_ratio(),
              "≥ 0.95", all.reached(0.95)});
  report.note(
      text(
          "throughput: %.0f connections, %.0f failed; the median of %d paired ratios and its 95 %% "
          "interval (percentile bootstrap, 10,000 resamples); the ratios: ",
          all.completed, all.failed, kPairs) +
      listing(all.ratio(), 3) + ".");
}

// --- resets: the same, of clients that end by a reset. Such a connection costs less, so that ours shows more. Many short
// pieces: what else goes on on the machine lasts longer than a pair of them, and the interval is a third of what as much
// time in long ones gives.

inline constexpr int kResetPairs = 225;

inline void resets(const std::string& build, Report& report) {
  Preforkd preforkd(build, {.min = kStaticWorkers, .max = kStaticWorkers});
  Bare bare(build, kStaticWorkers);
  const ContestShape shape{.name = "resets",
                           .reference = "bare",
                           .clients = 16,
                           .pairs = kResetPairs,
                           .resets = true,
                           .seconds = "0.2"};
  const Contest all = contest(build, shape, preforkd.port(), bare.port());
  report.add(
      {text("short echo connections/s, each ended by its client's reset, %d clients, %d workers",
            shape.clients, kStaticWorkers),
       summary(all.ours, 0), "bare: " + summary(all.theirs, 0), all.summary_of_ratio(), "≥ 0.97",
       all.reached(0.97)});
  report.note(
      text("resets: %.0f connections, %.0f failed; the median of %d paired ratios, half of which "
           "are from "
           "%.3f to %.3f.",
           all.completed, all.failed, kResetPairs, quantile(all.ratio(), 0.25),
           quantile(all.ratio(), 0.75)));
}

// --- program: one per connection, against tcpserver

inline constexpr int kProgramPairs = 9;

inline void program(const std::string& build, Report& report) {
  Preforkd preforkd(build, {.min = 8, .max = 256, .program = "/bin/cat"});
  Tcpserver tcpserver("/bin/cat");
  const Contest all =
      contest(build, {"program", "tcpserver", 8, kProgramPairs}, preforkd.port(), tcpserver.port());
  report.add({"/bin/cat for each connection, connections/s, 8 clients", summary(all.ours, 0),
              "tcpserver: " + summary(all.theirs, 0), all.summary_of_ratio(), "≥ 1.0",
              all.reached(1.0)});
  report.note(
      text("program: %.0f connections, %.0f failed; the ratios: ", all.completed, all.failed) +
      listing(all.ratio(), 3) + ".");
}

// --- serve: a program that accepts by itself, in Python, against the same one without a pool

inline constexpr int kServePairs = 9, kServeWorkers = 8;

inline void serve(const std::string& build, Report& report) {
  const std::string scripts = std::filesystem::canonical(build + "/../../bench");
  Preforkd preforkd(build, {.min = kServeWorkers,
                            .max = kServeWorkers,
                            .serve = "\"python3\", \"" + scripts + "/echo.py\""});
  Bare bare({"/usr/bin/env", "python3", scripts + "/bare.py", std::to_string(kServeWorkers)});
  const Contest all =
      contest(build, {"serve", "bare Python", 16, kServePairs}, preforkd.port(), bare.port());
  report.add(
      {text("short echo connections/s of a Python program, 16 clients, %d workers", kServeWorkers),
       summary(all.ours, 0), "accept in forked children, in Python: " + summary(all.theirs, 0),
       all.summary_of_ratio(), "≥ 0.9", all.reached(0.9)});
  report.note(
      text("serve: %.0f connections, %.0f failed; the ratios: ", all.completed, all.failed) +
      listing(all.ratio(), 3) + ".");
}

}  // namespace preforkd::bench
