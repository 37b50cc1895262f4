// What a handler may ask of preforkd while it runs: the functions of preforkd_host. They are C functions
// without a context, so they know their worker by themselves: there is one in a process. In a supervisor,
// where `preload` runs, there is none, and all but the log do nothing.
#pragma once

#include <preforkd/handler.h>

#include <string>

namespace preforkd {

// Its functions, without a pool.
const preforkd_host& host_functions();
// Both strings must outlive it.
preforkd_host make_host(const std::string& pool, const std::string& settings);

}  // namespace preforkd
