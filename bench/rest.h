// What a pool costs when little happens: who wakes while it is idle, what a worker keeps for
// itself, and how many workers a load that comes and goes makes it fork.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bench/report.h"
#include "bench/servers.h"

namespace preforkd::bench {

// --- idle: who wakes while nothing happens

inline constexpr int kIdleInstances = 5;
inline constexpr double kIdleSeconds = 60;

using Switches = std::map<pid_t, uint64_t>;

inline Switches switches_below(pid_t root) {
  Switches switches;
  for (pid_t pid : tree_of(root)) switches[pid] = context_switches(pid);
  return switches;
}

// Of processes that came in between, all; one that left has woken once at least.
inline double difference(const Switches& before, const Switches& after,
                         std::map<std::string, double>& by_title) {
  double sum = 0;
  auto add = [&](const std::string& title, double woken) {
    sum += woken;
    if (woken > 0) by_title[title] += woken;
  };
  for (auto [pid, switches] : after) {
    auto old = before.find(pid);
    add(title_of(pid), static_cast<double>(switches - (old == before.end() ? 0 : old->second)));
  }
  for (auto [pid, switches] : before)
    if (!after.contains(pid)) add("(a process that ended)", 1);
  return sum;
}

// Serves a burst first, so that a pool is measured that has grown and shrunk; one that never had
// anything to do would prove less. Then waits until nobody runs any more: a pool that never comes
// to rest is measured as it is.
inline void bring_to_rest(const std::string& build, Preforkd& preforkd) {
  measure({build + "/bench/burst", preforkd.port(), "40"});
  preforkd.wait_at_min(30);
  Switches last;
  Nanoseconds deadline = monotonic_now() + 15 * kSecond;
  for (Switches now;
       now = switches_below(preforkd.pid()), now != last && monotonic_now() < deadline;) {
    last = now;
    sleep_until(monotonic_now() + 2 * kSecond);
  }
}

// The instances idle side by side, in the same minute: whoever sleeps disturbs nobody.
inline void idle(const std::string& build, Report& report) {
  std::list<Preforkd> instances;
  for (int i = 0; i < kIdleInstances; i++) {
    instances.emplace_back(build, PoolShape{.min = 4, .max = 256, .shrink_after = 0.5});
    bring_to_rest(build, instances.back());
  }
  std::optional<Apache> apache;
  if (Apache::is_installed()) apache.emplace();
  std::vector<Switches> before;
  for (Preforkd& instance : instances) before.push_back(switches_below(instance.pid()));
  Switches apache_before;
  if (apache) apache_before = switches_below(apache->pid());
  progress(text("idle: %d instances for %.0f s", kIdleInstances, kIdleSeconds));
  sleep_until(monotonic_now() + from_seconds(kIdleSeconds));

  Samples woken;
  std::map<std::string, double> by_title, by_apache_title;
  size_t processes = 0, next = 0;
  for (Preforkd& instance : instances) {
    Switches after = switches_below(instance.pid());
    processes = after.size();
    woken.push_back(difference(before[next++], after, by_title));
  }
  std::string reference;
  if (apache)
    reference = text("Apache prefork: %.0f",
                     difference(apache_before, switches_below(apache->pid()), by_apache_title));
  report.add(
      {text("wake-ups of all processes in %.0f s without traffic, pool at min", kIdleSeconds),
       summary(woken, 0), reference, "", "0", reached_if(highest(woken) == 0)});
  report.note(text("idle: context switches of every task of the %zu processes of each of %d "
                   "instances in the same minute: ",
                   processes, kIdleInstances) +
              listing(woken, 0) + ".");
  for (const auto& [title, sum] : by_title)
    report.note(text("idle: %.0f of them: ", sum) + title + ".");
}

// --- memory: what an idle worker has of its own

inline constexpr int kMemoryWorkers = 8, kMemoryRounds = 5, kServedEach = 20;

struct Memory {
  double fresh, used;  // kB; of the worker that has most
};

inline double largest_private(const std::vector<pid_t>& workers) {
  if (workers.size() != kMemoryWorkers)
    throw std::runtime_error(
        text("list workers: %zu, expected %d", workers.size(), kMemoryWorkers));
  uint64_t largest = 0;
  for (pid_t pid : workers) largest = std::max(largest, private_dirty_kb(pid));
  return static_cast<double>(largest);
}

// As many connections at once as there are workers: each serves one, each time.
template <class Server>
Memory memory_of(const std::string& build, Server& server) {
  Memory memory{largest_private(server.workers()), 0};
  for (int i = 0; i < kServedEach; i++)
    measure({build + "/bench/burst", server.port(), std::to_string(kMemoryWorkers)});
  memory.used = largest_private(server.workers());
  return memory;
}

inline void memory(const std::string& build, Report& report) {
  // A program just built lies in the page cache unwritten, and each page of it that a single
  // process maps would be counted as that process's own dirty memory.
  sync();
  Samples pool_fresh, pool_used, bare_fresh, bare_used;
  for (int round = 0; round < kMemoryRounds; round++) {
    Preforkd preforkd(build, {.min = kMemoryWorkers, .max = kMemoryWorkers});
    Memory ours = memory_of(build, preforkd);
    pool_fresh.push_back(ours.fresh);
    pool_used.push_back(ours.used);
    Bare bare(build, kMemoryWorkers);
    Memory reference = memory_of(build, bare);
    bare_fresh.push_back(reference.fresh);
    bare_used.push_back(reference.used);
    progress(text("memory: preforkd %.0f kB, used %.0f kB; bare %.0f kB, used %.0f kB", ours.fresh,
                  ours.used, reference.fresh, reference.used));
  }
  double larger = std::max(median(pool_fresh), median(pool_used));
  double reference = std::max(median(bare_fresh), median(bare_used));
  report.add({"private memory (Private_Dirty) of an idle echo worker, kB", text("%.0f", larger),
              text("bare: %.0f", reference), text("%.2f", larger / reference), "≤ 64",
              reached_if(larger <= 64)});
  report.note(text("memory: the worker with most of %d, median of %d starts; preforkd never used ",
                   kMemoryWorkers, kMemoryRounds) +
              summary(pool_fresh, 0) + text(", after %d connections each ", kServedEach) +
              summary(pool_used, 0) + "; bare never used " + summary(bare_fresh, 0) +
              ", after as many " + summary(bare_used, 0) + ".");
}

// --- wave: load that comes and goes

inline constexpr int kPeriods = 10;
inline constexpr Nanoseconds kPeriod = 4 * kSecond;  // half of it on, half of it off

// `load` brings two seconds of it. What is forked after the first period has been learnt too late.
inline void wave(const std::string& build, Report& report, const char* shape,
                 const std::vector<std::string>& load) {
  Preforkd preforkd(build, {.min = 5, .max = 256, .shrink_after = 10});
  double peak = 0;
  Samples forked;
  Nanoseconds begin = monotonic_now();
  for (int period = 0; period < kPeriods; period++) {
    std::vector<std::string> argv{build + "/bench/" + load[0], preforkd.port()};
    argv.insert(argv.end(), load.begin() + 1, load.end());
    measure(argv, 30);
    nlohmann::json pool = preforkd.pool();
    peak = std::max(peak, pool.at("peak_busy").get<double>());
    sleep_until(begin + static_cast<uint64_t>(period + 1) * kPeriod);
    forked.push_back(preforkd.pool().at("lifetime").at("forked").get<double>());
    progress(text("wave of %s: period %d, forked %.0f, peak busy %.0f", shape, period + 1,
                  forked.back(), peak));
  }
  double after_first = forked.back() - forked.front();
  report.add(
      {text(
           "square wave of %s (2 s on, 2 s off, %d times), shrink_after = 10: workers forked after "
           "the first period",
           shape, kPeriods),
       text("%.0f", after_first), text("peak: %.0f busy", peak), text("%.3f", after_first / peak),
       "≤ 0.10", reached_if(after_first <= 0.10 * peak)});
  report.note(text("wave of %s: forked since the start, at the end of each period: ", shape) +
              listing(forked, 0) + ".");
}

inline void held_wave(const std::string& build, Report& report) {
  wave(build, report, "100 held connections", {"burst", "100", "2"});
}
inline void short_wave(const std::string& build, Report& report) {
  wave(build, report, "64 clients with short connections", {"echo_load", "64", "2"});
}

}  // namespace preforkd::bench
