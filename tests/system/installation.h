// preforkd installed: by `make install`, or its programs alone in a folder, where one can be replaced while it runs.
#pragma once

#include <filesystem>
#include <string>

#include "tests/system/harness.h"

namespace preforkd::system_test {

// What is built is installed as it is, whatever make has to say of the sources (-o all); PREFIX is /usr/local.
inline void install_under(const std::string& root) {
  const std::string folder = std::filesystem::path(built("preforkd")).parent_path();
  Outcome made = run({"env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "-s", "-o", "all",
                      "install", "OUT=" + folder, "DESTDIR=" + root},
                     60);
  if (made.code != 0) throw Failure("make install: " + made.err);
}

class Installation {
 public:
  Installation() {
    for (const char* name : {"preforkd", "preforkd-supervisor", "preforkd-supervisor-static",
                             "preforkd-control", "preforkd-log", "preforkctl"})
      std::filesystem::copy_file(built(name), folder_.file(name));
    std::filesystem::create_directory(folder_.file("handlers"));
    for (const char* name : {"echo.so", "discard.so"})
      std::filesystem::copy_file(built(std::string("handlers/") + name),
                                 folder_.file("handlers/") + name);
  }
  std::string preforkd() const { return folder_.file("preforkd"); }
  // As a package manager does it.
  void install(const std::string& binary) {
    std::filesystem::copy_file(binary, folder_.file("next"));
    std::filesystem::rename(folder_.file("next"), preforkd());
  }

 private:
  TestFolder folder_;
};

}  // namespace preforkd::system_test
