// A fault: what is done at one call site of one of preforkd's programs, once. As text "SITE:WHAT", WHAT one of
// `delay`, `kill-before`, `kill-after`, or the name of an error ("EMFILE").
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"

namespace preforkd::sweep {

// A call site: a system call, and the return addresses above it that lie in preforkd's own programs. The addresses are
// those of a build: with another one there are other sites.
using SiteId = uint64_t;

struct Site {
  SiteId id = 0;
  std::string program;     // whose file is executed: "preforkd", "preforkd-control", ...
  std::string call;        // a name of errors.h
  bool is_daemon = false;  // the daemon itself comes to it, and not only a child before its exec
  bool is_early = false;   // it is reached before preforkd is ready, maybe never after
  uint64_t count = 0;      // how often it was called
  std::string stack;       // functions, innermost first, with " < " between
};

enum class What : int { kError, kDelay, kKillBefore, kKillAfter };

struct Fault {
  SiteId site = 0;
  What what = What::kError;
  int error = 0;  // of kError

  std::string text() const;
  static Fault parse(const std::string& text);  // throws std::runtime_error
  bool kills() const { return what == What::kKillBefore || what == What::kKillAfter; }
  bool operator==(const Fault&) const = default;
};

// All that is done at a site.
std::vector<Fault> faults_of(const Site& site);

// Sites as a file, one a line.
std::vector<Site> read_sites(const std::string& path);
void write_sites(const std::string& path, const std::vector<Site>& sites);

// What the tracer has done, in memory that it shares with who runs the scenario.
constexpr size_t kMostFaults = 16;  // in one run
struct Done {
  struct One {
    std::atomic<pid_t> pid{0};  // in which process; 0: not yet
    std::atomic<Nanoseconds> when{0};
  };
  One faults[kMostFaults];
  std::atomic<bool> is_ready{false};  // said by the scenario: all pools serve for the first time
};

}  // namespace preforkd::sweep
