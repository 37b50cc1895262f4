// What clients that make workers crash cost the others: each beside what it costs to start such workers without a pool.
#pragma once

#include <signal.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bench/report.h"
#include "bench/servers.h"

namespace preforkd::bench {

// A kind of worker, and what starts one of it bare, with what it has loaded when it serves.
struct CrashKind {
  const char* name;
  PoolShape shape;
  std::vector<std::string> bare;
};

inline std::vector<CrashKind> crash_kinds(const std::string& build) {
  const std::string scripts = std::filesystem::canonical(build + "/../../bench");
  const std::string here = std::filesystem::canonical(build);
  auto script = [&](const std::string& interpreter, const std::string& file) {
    return "\"/usr/bin/" + interpreter + "\", \"" + scripts + "/" + file + "\"";
  };
  auto started = [&](const std::string& interpreter, const std::string& file) {
    return std::vector<std::string>{"/usr/bin/env",
                                    "PREFORKD_LIBRARY=" + here + "/libpreforkd.so.1",
                                    "PYTHONPATH=" + here + "/python",
                                    "PERL5LIB=" + here + "/perl",
                                    "/usr/bin/" + interpreter,
                                    scripts + "/" + file,
                                    "start"};
  };
  const PoolShape sixteen{.min = 4, .max = 16};
  std::vector<CrashKind> kinds(4, {"", sixteen, {}});
  kinds[0].name = "handler";
  kinds[0].shape.handler = here + "/tests/system/handlers/unruly.so";
  kinds[1].name = "program";
  kinds[1].shape.program = here + "/bench/crash";
  kinds[1].bare = {here + "/bench/crash"};
  kinds[2].name = "Python";
  kinds[2].shape.serve = script("python3", "crash.py");
  kinds[2].bare = started("python3", "crash.py");
  kinds[3].name = "Perl";
  kinds[3].shape.serve = script("perl", "crash.pl");
  kinds[3].bare = started("perl", "crash.pl");
  return kinds;
}

// Milliseconds until so many have started, at most 16 at once (which is the pool's `max`).
inline double start_bare(const std::string& build, const CrashKind& kind, int count) {
  if (kind.bare.empty())
    return measure({build + "/bench/bare", "forks", std::to_string(count)}).at("all_ms");
  std::vector<std::string> argv{build + "/bench/crash", "bare", std::to_string(count)};
  argv.insert(argv.end(), kind.bare.begin(), kind.bare.end());
  return measure(argv).at("all_ms");
}

inline constexpr int kCrashes = 40, kCrashRounds = 5;

inline void crash_at_once(const std::string& build, const CrashKind& kind, Report& report) {
  Preforkd preforkd(build, kind.shape);
  Samples waits, starts, over;
  auto on_pool = [&] {
    waits.push_back(
        measure({build + "/bench/crash", "at-once", preforkd.port(), std::to_string(kCrashes)}, 200)
            .at("next_ms"));
    preforkd.wait_at_min(60);
  };
  for (int round = 0; round < kCrashRounds; round++) {
    if (round % 2 == 0) on_pool();
    starts.push_back(start_bare(build, kind, kCrashes));
    if (round % 2) on_pool();
    over.push_back(waits.back() - 1.3 * starts.back());
    progress(text("crashes: %s: the next client waited %.1f ms, bare %.1f ms", kind.name,
                  waits.back(), starts.back()));
  }
  report.add({text("%s: the next client's wait after %d requests at once that each crash their "
                   "worker, max 16, ms",
                   kind.name, kCrashes),
              summary(waits, 1), text("%d started bare: ", kCrashes) + summary(starts, 1),
              summary(ratios(waits, starts), 2), "≤ 1.3 × + 100", reached_if(median(over) <= 100)});
}

// --- a client that makes a worker crash every 0.2 s

inline void crash_drip(const std::string& build, const CrashKind& kind, Report& report) {
  constexpr int kDrips = 5;
  const bool for_a_minute = kind.name == std::string("Python");  // a start costs most there
  Preforkd preforkd(build, kind.shape);
  Samples worst, starts;
  for (int round = 0; round < kDrips + for_a_minute; round++) {
    const char* seconds = round < kDrips ? "12" : "60";
    starts.push_back(start_bare(build, kind, 1));
    worst.push_back(
        measure({build + "/bench/crash", "drip", preforkd.port(), seconds}, 200).at("worst_ms"));
    progress(text("crashes: %s: others waited %.1f ms at worst in %s s, one start bare %.1f ms",
                  kind.name, worst.back(), seconds, starts.back()));
  }
  report.add({text("%s: other clients' worst wait while one crashes a worker each 0.2 s (%d times "
                   "12 s%s), ms",
                   kind.name, kDrips, for_a_minute ? ", once 60 s" : ""),
              summary(worst, 1), "one started bare: " + summary(starts, 1), "", "≤ 100 + one start",
              reached_if(highest(worst) <= 100 + median(starts))});
}

// --- workers that are killed

// The pool's workers as the kernel has them: the supervisor's children, without those that are dead. (A signal kills
// when the processor gets to it.)
class LivingWorkers {
 public:
  explicit LivingWorkers(Preforkd& preforkd)
      : workers_(preforkd.workers()), supervisor_(parent_of(workers_.at(0))) {}

  std::vector<pid_t> living() const {
    std::vector<pid_t> all = children_of(supervisor_);
    std::erase_if(all, [&](pid_t pid) { return killed_.contains(pid) && is_dead(pid); });
    return all;
  }
  size_t newcomers() const {
    std::vector<pid_t> all = children_of(supervisor_);
    std::erase_if(all, [&](pid_t pid) { return killed_.contains(pid); });
    return all.size();
  }
  void kill_all() {
    killed_.insert(workers_.begin(), workers_.end());
    for (pid_t pid : workers_) kill(pid, SIGKILL);
  }
  void kill_one(std::mt19937& random) {
    const std::vector<pid_t> all = living();
    if (all.empty()) return;
    const pid_t pid = all[random() % all.size()];
    killed_.insert(pid);
    kill(pid, SIGKILL);
  }

 private:
  static bool is_dead(pid_t pid) {
    std::ifstream file(proc_path(pid, "stat"));
    std::string line;
    std::getline(file, line);
    const size_t name_ends = line.rfind(") ");
    return name_ends == line.npos || line[name_ends + 2] == 'Z' || line[name_ends + 2] == 'X';
  }
  static pid_t parent_of(pid_t pid) {
    return static_cast<pid_t>(sum_of_lines(proc_path(pid, "status"), {"PPid"}));
  }

  std::vector<pid_t> workers_;
  pid_t supervisor_;
  std::set<pid_t> killed_;
};

inline constexpr int kKilled = 500, kKillRounds = 9;

// A kind of worker, and the bare process that is linked as its supervisor is: dynamically where handlers are loaded.
struct KilledKind {
  const char* name;
  PoolShape shape;
  const char* bare;
};

inline void kill_idle(const std::string& build, const KilledKind& kind, Report& report) {
  Preforkd preforkd(build, kind.shape);
  Samples below, forks, alike, replaced;
  auto bare = [&](const char* program, const char* what) {
    return measure({build + "/bench/" + program, what, std::to_string(kKilled)}).at("all_ms");
  };
  auto on_pool = [&] {
    LivingWorkers workers(preforkd);
    const Nanoseconds began = monotonic_now();
    workers.kill_all();
    while (workers.newcomers() < kKilled && monotonic_now() < began + 120 * kSecond)
      sleep_until(monotonic_now() + 5 * kMillisecond);
    below.push_back(to_seconds(monotonic_now() - began) * 1e3);
    preforkd.wait_at_min(60);
  };
  for (int round = 0; round < kKillRounds; round++) {
    if (round % 2) on_pool();
    forks.push_back(bare("bare", "forks"));
    if (round % 2 == 0) on_pool();
    alike.push_back(bare(kind.bare, "forks"));
    replaced.push_back(bare(kind.bare, "replace"));
    progress(
        text("crashes: %s: below min for %.1f ms after %d were killed, bare forks %.1f ms, "
             "of %s %.1f ms, deaths and forks of %s %.1f ms",
             kind.name, below.back(), kKilled, forks.back(), kind.bare, alike.back(), kind.bare,
             replaced.back()));
  }
  const Samples ratio = ratios(below, forks);
  report.add(
      {text("%s: below min after %d idle workers were killed at once, ms", kind.name, kKilled),
       summary(below, 1), text("%d bare forks: ", kKilled) + summary(forks, 1), summary(ratio, 2),
       "≤ 2", reached_if(median(ratio) <= 2)});
  report.note(
      text("killed-idle, %s: forks of as many bare processes that are linked as this kind's "
           "supervisor is (%s) take ",
           kind.name, kind.bare) +
      summary(alike, 1) + " ms, " + summary(ratios(alike, forks), 2) +
      " of bare forks; killing them, and replacing each when it is reaped, " +
      summary(replaced, 1) + " ms, " + summary(ratios(replaced, forks), 2) +
      " of bare forks; preforkd " + summary(ratios(below, alike), 2) + " and " +
      summary(ratios(below, replaced), 2) + " of these.");
}

inline void kill_idle(const std::string& build, Report& report) {
  PoolShape many{.min = kKilled, .max = 2 * kKilled};
  kill_idle(build, {"handler", many, "bare-dynamic"}, report);
  many.program = "/bin/cat";
  kill_idle(build, {"program", many, "bare"}, report);
}

// 16 clients that all end by reset, and meanwhile a random worker is killed every 50 ms.
inline void kill_under_resets(const std::string& build, Report& report) {
  constexpr int kVictims = 100, kWorkers = 32, kResetRounds = 5;
  Samples longest, forks;
  bool degraded = false;
  for (int round = 0; round < kResetRounds; round++) {
    forks.push_back(measure({build + "/bench/bare", "forks", "1"}).at("all_ms"));
    Preforkd preforkd(build, {.min = kWorkers, .max = 2 * kWorkers});
    LivingWorkers workers(preforkd);
    Child load({build + "/bench/echo_load", preforkd.port(), "16", "6", "resets"});
    std::mt19937 random(static_cast<unsigned>(round));
    Nanoseconds at_min = monotonic_now(), below = 0, looked = at_min, held_up = 0;
    for (int victim = 0; victim < kVictims; victim++) {
      // (While the state was asked for nobody looked.)
      if (workers.living().size() >= kWorkers) at_min = monotonic_now();
      workers.kill_one(random);
      for (const Nanoseconds end = monotonic_now() + 50 * kMillisecond; monotonic_now() < end;
           sleep_until(monotonic_now() + kMillisecond / 2)) {
        const Nanoseconds now = monotonic_now();
        if (workers.living().size() >= kWorkers) at_min = now;
        held_up = std::max(held_up, now - looked);  // by the machine, or by who else runs on it
        looked = now;
        below = std::max(below, now - at_min);
      }
      degraded |= preforkd.pool().at("state") != "running";
      looked = monotonic_now();
    }
    const Figures figures = parse_figures(load.finish(30));
    if (figures.at("refused") > 0) throw std::runtime_error("a client was refused");
    longest.push_back(to_seconds(below) * 1e3);
    progress(
        text("crashes: below min for %.1f ms at most under resets, %.0f served%s (who looks was "
             "held up for %.1f ms at most)",
             longest.back(), figures.at("completed"), degraded ? ", degraded" : "",
             to_seconds(held_up) * 1e3));
  }
  report.add({text("min %d under 16 clients that all end by reset, %d workers killed: longest time "
                   "below min, ms%s",
                   kWorkers, kVictims, degraded ? ", degraded" : ""),
              summary(longest, 1), "one bare fork: " + summary(forks, 1), "",
              "≤ 100, never degraded", reached_if(highest(longest) <= 100 && !degraded)});
}

inline void crashes(const std::string& build, Report& report) {
  for (const CrashKind& kind : crash_kinds(build)) crash_at_once(build, kind, report);
}
inline void crash_drips(const std::string& build, Report& report) {
  for (const CrashKind& kind : crash_kinds(build)) crash_drip(build, kind, report);
}

}  // namespace preforkd::bench
