// What a pool serves with: its entry of the configuration, and what the daemon made of it. A reload makes
// a new one and keeps the old until the new one has proven itself.
#pragma once

#include <algorithm>
#include <memory>

#include "base/log.h"
#include "conf/settings.h"
#include "conf/user.h"
#include "daemon/generation.h"
#include "daemon/listener.h"
#include "daemon/log_link.h"
#include "daemon/paths.h"

namespace preforkd {

struct PoolPlan {
  PoolSettings settings;
  EffectiveUser user;
  Listeners listeners;
  LogLink* log;  // the daemon's
  // Whoever is launched does without what does not listen yet, as nobody knows when it will.
  bool goes_without = false;

  // One of them does not listen yet (daemon/moves.h).
  bool awaits_address() const {
    return std::any_of(listeners.begin(), listeners.end(),
                       [](const auto& listener) { return !listener->is_listening(); });
  }
  bool has_address() const {
    return std::any_of(listeners.begin(), listeners.end(),
                       [](const auto& listener) { return listener->is_listening(); });
  }
  // Its generations serve when all listen, and not before.
  bool waits() const { return awaits_address() && !goes_without; }
  // What they are launched with.
  Listeners sockets() const;
};

// What differs from one generation of a plan to the next.
struct Incarnation {
  uint32_t number = 0;
  Limits limits;               // in force now, whatever the file said
  uint32_t first_workers = 0;  // to begin with, if that is more than `min`
  LogLevel log_level = LogLevel::kInfo;
  bool on_trial = false;  // its workers accept when it is told to serve
  uint32_t capacity = 0;  // slots that it has at least
};

// Makes the segment and starts the supervisor. Throws SysError: no memory for it, no process to be had.
std::unique_ptr<Generation> launch_generation(EventLoop& loop, GenerationOwner& owner,
                                              const Paths& paths, const PoolPlan& plan,
                                              const Incarnation& incarnation);

// As a supervisor gets them, which may run elsewhere: with the path of the handler's file; and without the lists of
// networks, which it has from a file of their own.
PoolSettings settings_for_supervisor(const Paths& paths, const PoolSettings& settings);

// The file of its handler, which its user may not be able to reach (Launch::trusted_file): opened as the daemon's user only
// where nobody but root, or whom the daemon runs as, can change the path that leads to it. Else its supervisor opens it, as
// its user. "": a program.
std::string file_of_handler(const PoolSettings& settings);

// Logs a report of type kLog, and the lines that were lost before it.
void log_report(const std::string& pool, const Report& report);

// "killed by signal 11 (Segmentation fault)", "exited with status 1".
std::string ending_text(int wait_status);

}  // namespace preforkd
