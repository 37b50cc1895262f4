// Signals before there is a daemon to take them: while the configuration is read and checked, which lasts as long as
// handlers' constructors do.
//
// Those that the daemon will handle are blocked from its first act on, and pending until Daemon::catch_signals(): a HUP
// or USR2 is done after the start, and kills nobody. But TERM, QUIT and INT end a start at any time, with the check that
// it waits for, which is in a session of its own and hears no ^C. Who only checks, prints or loads is ended by a HUP, too:
// it will never be a daemon.
//   SIGKILL: the check ends with its parent (Launch::ends_with_us).
#pragma once

#include <signal.h>

#include <initializer_list>

namespace preforkd {

inline constexpr std::initializer_list<int> kSignalsOfDaemon = {SIGCHLD, SIGTERM, SIGQUIT,
                                                                SIGINT,  SIGHUP,  SIGUSR2};

// From now on each of them ends this process as it does by default, and what it waits for.
void end_at(std::initializer_list<int> signals);

}  // namespace preforkd
