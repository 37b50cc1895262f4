// All benchmarks. Each runs preforkd as a user would, on a configuration of its own, and beside it,
// in turn, the reference; what counts is the ratio of the two, because the machine is never the
// same twice.
//
//   suite BUILD_DIR RESULTS_FILE [NAME]
//
// With NAME only that benchmark runs, and its table is printed but not kept.
#include <exception>
#include <fstream>
#include <iostream>
#include <string>

#include "bench/crashes.h"
#include "bench/django.h"
#include "bench/kinds.h"
#include "bench/networks.h"
#include "bench/preload.h"
#include "bench/report.h"
#include "bench/rest.h"
#include "bench/speed.h"
#include "bench/template.h"
#include "bench/wait.h"

namespace preforkd::bench {
namespace {

struct Benchmark {
  const char* name;
  void (*run)(const std::string& build, Report& report);
};
constexpr Benchmark kBenchmarks[] = {
    {"burst", burst},
    {"throughput", throughput},
    {"resets", resets},
    {"program", program},
    {"serve", serve},
    {"networks", networks},
    {"idle", idle},
    {"memory", memory},
    {"spell", spell},
    {"next-worker", next_worker},
    {"django", django},
    {"kinds", kinds},
    {"held-wave", held_wave},
    {"short-wave", short_wave},
    {"crashes", crashes},
    {"crash-drip", crash_drips},
    {"killed-idle", kill_idle},
    {"killed-resets", kill_under_resets},
};

int usage() {
  std::cerr << "usage: bench/run BUILD_DIR [NAME], NAME one of:";
  for (const Benchmark& benchmark : kBenchmarks) std::cerr << " " << benchmark.name;
  std::cerr << "\n";
  return 64;
}

void write_results(const std::string& path, const std::string& head, const Report& report) {
  std::ofstream out(path);
  out << "# Measured\n\nWritten by `make bench`. " << head
      << ".\n\nMedians (and the range), each taken in turn with its reference; a ratio is the "
         "median of the paired ratios.\n\n";
  report.write(out);
  if (!out.flush()) throw SysError("write " + path, errno);
}

int run(int argc, char** argv) {
  if (argc < 3 || argc > 4) return usage();
  std::string build = argv[1], only = argc == 4 ? argv[3] : "";
  std::string head = machine();
  Report report;
  bool found = false, failed = false;
  for (const Benchmark& benchmark : kBenchmarks) {
    if (!only.empty() && only != benchmark.name) continue;
    found = true;
    try {
      benchmark.run(build, report);
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& error) {
      failed = true;  // the others are worth having all the same
      std::cerr << benchmark.name << ": " << error.what() << "\n";
      report.note(text("%s: **not measured**: ", benchmark.name) + error.what());
    }
  }
  if (!found) return usage();
  std::cout << head << "\n\n";
  report.write(std::cout);
  if (only.empty()) write_results(argv[2], head, report);
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace preforkd::bench

int main(int argc, char** argv) {
  preforkd::bench::note_interrupts();
  try {
    return preforkd::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "bench: " << error.what() << "\n";
    return 1;
  }
}
