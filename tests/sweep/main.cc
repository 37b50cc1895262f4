// sweep record SITES              runs the scenario, and writes down its call sites
// sweep run SITES FAULT...        runs the scenario with these faults, and says what came of it
// sweep plan SITES SEED           writes down all faults, one a line, in an order that a seed makes
// sweep lane FOLDER               takes faults from FOLDER/todo until there are none: tests/sweep/run
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include "tests/sweep/fault.h"
#include "tests/sweep/lane.h"
#include "tests/sweep/scenario.h"

namespace preforkd::sweep {
namespace {

int say(const Verdict& verdict) {
  for (const Fault& fault : verdict.done) std::printf("done %s\n", fault.text().c_str());
  for (std::string text : verdict.complaints) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    std::printf("complaint %s\n", text.c_str());
  }
  std::printf("%s\n", verdict.complaints.empty() ? "well" : "ill");
  return verdict.complaints.empty() ? 0 : 1;
}

int run_faults(const std::string& sites_path, char** texts, int count) {
  const std::vector<Site> sites = read_sites(sites_path);
  std::vector<Fault> faults;
  for (int i = 0; i < count; ++i) {
    faults.push_back(Fault::parse(texts[i]));
    if (std::none_of(sites.begin(), sites.end(),
                     [&](const Site& site) { return site.id == faults.back().site; }))
      throw std::runtime_error(std::string("there is no such site: ") + texts[i]);
  }
  return say(run_scenario(faults, sites));
}

int plan(const std::string& sites_path, const char* seed) {
  std::vector<std::string> all;
  for (const Site& site : read_sites(sites_path))
    for (const Fault& fault : faults_of(site)) all.push_back(fault.text());
  std::mt19937_64 random(std::stoull(seed));
  for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[random() % i]);
  for (const std::string& text : all) std::puts(text.c_str());
  return 0;
}

int main(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  if (command == "record" && argc == 3) return say(run_scenario({}, {}, argv[2]));
  if (command == "run" && argc > 3) return run_faults(argv[2], argv + 3, argc - 3);
  if (command == "plan" && argc == 4) return plan(argv[2], argv[3]);
  if (command == "lane" && argc == 3) return run_lane(argv[2], argv[0]);
  std::fprintf(stderr, "usage: sweep record|run|plan|lane ...\n");
  return 64;
}

}  // namespace
}  // namespace preforkd::sweep

int main(int argc, char** argv) {
  try {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    return preforkd::sweep::main(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sweep: %s\n", e.what());
    return 1;
  }
}
