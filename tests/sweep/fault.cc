#include "tests/sweep/fault.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

#include "tests/sweep/errors.h"

namespace preforkd::sweep {
namespace {

constexpr struct {
  const char* name;
  What what;
} kNames[] = {
    {"delay", What::kDelay}, {"kill-before", What::kKillBefore}, {"kill-after", What::kKillAfter}};

int error_of(const std::string& name) {
  for (int error = 1; error < 200; ++error)
    if (const char* known = strerrorname_np(error); known && name == known) return error;
  throw std::runtime_error("no error is called " + name);
}

}  // namespace

std::string Fault::text() const {
  char site_text[32];
  std::snprintf(site_text, sizeof site_text, "%016" PRIx64 ":", site);
  for (const auto& row : kNames)
    if (row.what == what) return site_text + std::string(row.name);
  return site_text + std::string(strerrorname_np(error));
}

Fault Fault::parse(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == text.npos) throw std::runtime_error("a fault is SITE:WHAT, and not " + text);
  Fault fault;
  fault.site = std::stoull(text.substr(0, colon), nullptr, 16);
  const std::string name = text.substr(colon + 1);
  for (const auto& row : kNames)
    if (name == row.name) return fault.what = row.what, fault;
  fault.error = error_of(name);
  return fault;
}

std::vector<Fault> faults_of(const Site& site) {
  std::vector<Fault> faults;
  const Call* call = find_call(site.call);
  if (!call) throw std::runtime_error("errors.h has no " + site.call);
  for (int error : call->errors)
    if (!find_row(kNotDone, site.call, error, site.stack))
      faults.push_back({site.id, What::kError, error});
  for (const auto& row : kNames) faults.push_back({site.id, row.what, 0});
  return faults;
}

std::vector<Site> read_sites(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("open " + path + ": " + std::strerror(errno));
  std::vector<Site> sites;
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    Site site;
    fields >> std::hex >> site.id >> std::dec >> site.program >> site.call >> site.is_daemon >>
        site.is_early >> site.count >> std::ws;
    std::getline(fields, site.stack);
    sites.push_back(site);
  }
  return sites;
}

void write_sites(const std::string& path, const std::vector<Site>& sites) {
  std::ofstream file(path, std::ios::trunc);
  for (const Site& site : sites) {
    char id[32];
    std::snprintf(id, sizeof id, "%016" PRIx64, site.id);
    file << id << ' ' << site.program << ' ' << site.call << ' ' << site.is_daemon << ' '
         << site.is_early << ' ' << site.count << ' ' << site.stack << '\n';
  }
  if (!file.flush()) throw std::runtime_error("write " + path);
}

}  // namespace preforkd::sweep
