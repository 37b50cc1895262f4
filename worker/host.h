// What a handler may ask of preforkd while it runs: the functions of preforkd_host. They are C functions
// without a context, so they know their worker by themselves: there is one in a process. In a supervisor,
// where `preload` runs, there is none, and all but the log do nothing.
#pragma once

#include <preforkd/handler.h>

#include <string>

#include "worker/seat.h"

namespace preforkd {

// Both strings must outlive it.
preforkd_host make_host(const std::string& pool, const std::string& settings);

// Called by a worker before its handler's `start`.
void host_works_for(Seat& seat);
// Whether the handler asked for it: the worker leaves after the connection in hand.
bool handler_is_done();

}  // namespace preforkd
