// Loading a configuration with all that it names: the file is read, users, groups and hosts are looked up, handlers are
// checked. Each of these may take as long as somebody else likes: a FIFO's writer, a directory service, a resolver, a
// handler's constructor. So it is done before anything serves, in main, or by a child of the daemon.
//
//   daemon ── what is there ──▶ preforkd --load FD -c FILE ──▶ supervisor --check (as the pool's user)
//      ▲                               │
//      └── each step, then the result ─┘          daemon/loading.h has the daemon's end
//
// The child is of the daemon's own binary and user, and as trusted as it. When it is told to end (TERM), or the daemon
// dies, it ends, with the check that it waits for (daemon/start_signals.h). With a SIGKILL of it that check ends, too; a
// handler that is hostile may have undone that, and is adopted by the daemon, and ends with it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "conf/load.h"
#include "daemon/paths.h"

namespace preforkd {

// Entries of `listen` that are bound already, by pool, and as "" control.web: if nobody knows what their hosts are now, they
// stay what they were.
using BoundEntries = std::map<std::string, std::vector<std::string>>;

// What the daemon has, which need not be looked up and checked again.
struct InForce {
  BoundEntries bound;
  std::string settings;  // as print_settings() has them
};

// The file ("": the built-in default) and its users.
LoadedSettings load(const std::string& file, std::vector<std::string>& errors,
                    const OnStep& on_step);
// Fills in `names`. A host without an address is said there, and in the way of its entry only. One that is bound already
// is waited for no longer than a moment, and without an answer left out.
void look_up_hosts(LoadedSettings& loaded, const BoundEntries& bound, const OnStep& on_step);

inline constexpr int kCheckSeconds = 10;  // for one pool's check
// Asks `preforkd-supervisor --check`, as each pool's user, whether its handler or program could run. By pool: why not, as
// "FILE:LINE: key: reason", or "". `tries`: a program that is to be forked from (preload) is, within `timeouts.start`. Pools that are among the `running` as they are have proven themselves.
std::vector<std::string> check_handlers(const Paths& paths, const LoadedSettings& loaded,
                                        const std::vector<PoolSettings>& running,
                                        const OnStep& on_step, bool tries = false);

// In the child, and what goes between it and the daemon. Lines of JSON: a step, with the seconds that it may take
// beyond those for all, or the result, which comes last. Behind the document it has the supervisors that the daemon
// holds (daemon/held_file.h), as Paths::supervisor and Paths::static_supervisor.
int load_for_daemon(const std::string& file, int in_force_document);
std::string to_json(const InForce& in_force);
struct Step {
  std::string what;
  uint32_t more_seconds = 0;
};
std::optional<Step> step_from_json(const std::string& line);
// Throws what JSON throws.
LoadedSettings result_from_json(const std::string& line, const std::string& file,
                                std::vector<std::string>& errors);

}  // namespace preforkd
