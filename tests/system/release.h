// A release of preforkd in a folder of its own, which may be exchanged under a daemon that runs from it: this build, or
// the next one ($BUILD_DIR/next), of which the numbers alone are others (base/version.cc, shm/layout.cc).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tests/system/harness.h"

namespace preforkd::system_test {

enum class Version { kThis, kNext };

inline const std::vector<std::string> kPrograms = {
    "preforkd",         "preforkd-supervisor", "preforkd-supervisor-static",
    "preforkd-control", "preforkd-log",        "preforkctl",
    "libpreforkd.so.1"};
inline const std::vector<std::string> kModules = {"python/preforkd.py", "perl/Preforkd.pm",
                                                  "handlers/echo.so"};

inline std::string built_of(Version version, const std::string& file) {
  const std::string next = built("next/" + file);
  return version == Version::kNext && std::filesystem::exists(next) ? next : built(file);
}

// Into files that are not there yet.
inline void release_to(const std::string& folder, Version version) {
  for (const char* below : {"python", "perl", "handlers"})
    std::filesystem::create_directories(folder + "/" + below);
  for (const auto* files : {&kPrograms, &kModules})
    for (const std::string& file : *files)
      std::filesystem::copy_file(built_of(version, file), folder + "/" + file);
}

}  // namespace preforkd::system_test
