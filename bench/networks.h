// What lists of networks cost: each kind of pool with 65,536 networks in each of allow and deny, and beside it, in turn, the
// same one without any.
#pragma once

#include <filesystem>
#include <string>

#include "bench/report.h"
#include "bench/servers.h"
#include "bench/speed.h"

namespace preforkd::bench {

inline constexpr int kNetworks = 65536, kNetworkPairs = 9;

// Every /24 of 127.0.0.0/8 is allowed, and its last address denied, so that nothing can be merged: the load's sources
// (127.1.CLIENT.1 to 254) lie between.
inline std::string lists_of_networks() {
  auto list = [](const char* key, const char* last) {
    std::string all = text("%s = [ ", key);
    for (int i = 0; i < kNetworks; i++)
      all += text("%s\"127.%d.%d.%s\"", i ? ",\n" : "", i >> 8, i & 255, last);
    return all + " ]; ";
  };
  return "access = { " + list("allow", "0/24") + list("deny", "255") + "};\n";
}

inline void networks_of(const std::string& build, Report& report, const char* kind, int clients,
                        PoolShape shape) {
  const Preforkd without(build, shape);
  shape.more = lists_of_networks();
  const Preforkd with(build, shape);
  const std::string name = text("networks, %s", kind);
  const Contest all = contest(build, {name.c_str(), "without networks", clients, kNetworkPairs},
                              with.port(), without.port());
  report.add({text("%s: short echo connections/s with %d networks in each of allow and deny, %d "
                   "clients",
                   kind, kNetworks, clients),
              summary(all.ours, 0), "without: " + summary(all.theirs, 0), all.summary_of_ratio(),
              "≥ 0.98", all.reached(0.98)});
  report.note(text("%s: %.0f connections, %.0f failed; the ratios: ", name.c_str(), all.completed,
                   all.failed) +
              listing(all.ratio(), 3) + ".");
}

inline void networks(const std::string& build, Report& report) {
  const std::string scripts = std::filesystem::canonical(build + "/../../bench");
  networks_of(build, report, "handler", 16, {.min = kStaticWorkers, .max = kStaticWorkers});
  networks_of(build, report, "program", 8, {.min = 8, .max = 256, .program = "/bin/cat"});
  auto served_by = [&](const char* interpreter, const char* script) {
    return PoolShape{.min = kServeWorkers,
                     .max = kServeWorkers,
                     .serve = text("\"%s\", \"%s/%s\"", interpreter, scripts.c_str(), script)};
  };
  networks_of(build, report, "Python", 16, served_by("python3", "echo.py"));
  networks_of(build, report, "Perl", 16, served_by("perl", "echo.pl"));
}

}  // namespace preforkd::bench
